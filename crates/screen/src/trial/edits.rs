//! Where a source can be changed, and the changes.

use std::collections::{HashMap, HashSet};

use ruff_python_ast::visitor::{self, Visitor};
use ruff_python_ast::{Expr, ExprContext, Pattern, Stmt};
use ruff_text_size::{Ranged, TextRange};

/// An import statement of a module's top level.
#[derive(Debug, Clone)]
pub(crate) struct Import {
    pub(crate) range: TextRange,
    /// The module, and for `from m import n` what is taken: name and alias.
    pub(crate) module: String,
    pub(crate) names: Option<Vec<(String, Option<String>)>>,
    /// The name that `import m as n` binds.
    pub(crate) bound: String,
}

/// A call that may be made in another way.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) callee: TextRange,
    /// Just after the opening bracket.
    pub(crate) inside: usize,
    pub(crate) empty: bool,
}

/// Everything in a source that the disguises change.
#[derive(Debug, Default)]
pub(crate) struct Sites {
    pub(crate) strings: Vec<(TextRange, String)>,
    pub(crate) imports: Vec<Import>,
    pub(crate) calls: Vec<Call>,
    /// `module.attribute`: the whole, the part before the dot, the attribute.
    pub(crate) attributes: Vec<(TextRange, TextRange, String)>,
    pub(crate) names: Vec<(TextRange, String)>,
    pub(crate) identifiers: Vec<(TextRange, String)>,
    /// How often each name is bound, imports included.
    pub(crate) bound: HashMap<String, usize>,
    /// Where statements of the top level start, after documentation and `__future__`.
    pub(crate) body_start: usize,
    pub(crate) statements: Vec<usize>,
}

impl Sites {
    /// Reads a source; nothing when it is not Python.
    pub(crate) fn of(source: &str) -> Option<Self> {
        let parsed = crate::analyse::parse_in(source, ruff_python_parser::Mode::Module).ok()?;
        if !parsed.errors().is_empty() {
            return None;
        }
        let body = &parsed.syntax().body;
        let mut sites = Self::default();
        let start = body.iter().find(|stmt| !is_preface(stmt));
        sites.body_start = start.map_or(source.len(), |stmt| {
            line_start(source, stmt.start().to_usize())
        });
        sites.statements = body
            .iter()
            .filter(|stmt| !is_preface(stmt))
            .map(|stmt| stmt.start().to_usize())
            .filter(|&at| line_start(source, at) == at)
            .collect();
        let mut collector = Collector {
            sites,
            imported: HashSet::new(),
        };
        for stmt in body {
            collector.import(stmt);
        }
        collector.visit_body(body);
        Some(collector.sites)
    }

    /// Whether the program binds a name in no other way than by one import.
    pub(crate) fn only_imported(&self, name: &str) -> bool {
        self.bound.get(name) == Some(&1)
    }
}

/// The start of the line.
pub(crate) fn line_start(source: &str, at: usize) -> usize {
    source
        .get(..at)
        .and_then(|before| before.rfind('\n'))
        .map_or(0, |newline| newline + 1)
}

fn is_preface(stmt: &Stmt) -> bool {
    match stmt {
        Stmt::Expr(expr) => expr.value.is_string_literal_expr(),
        Stmt::ImportFrom(import) => import
            .module
            .as_ref()
            .is_some_and(|module| module == "__future__"),
        _ => false,
    }
}

struct Collector {
    sites: Sites,
    imported: HashSet<String>,
}

impl Collector {
    fn import(&mut self, stmt: &Stmt) {
        match stmt {
            Stmt::Import(import) => {
                let [alias] = import.names.as_slice() else {
                    return;
                };
                let module = alias.name.to_string();
                if module.contains('.') && alias.asname.is_none() {
                    let root = module.split('.').next().unwrap_or("").to_owned();
                    self.imported.insert(root);
                    return;
                }
                let bound = alias.asname.as_ref().unwrap_or(&alias.name).to_string();
                self.imported.insert(bound.clone());
                self.sites.imports.push(Import {
                    range: stmt.range(),
                    module,
                    names: None,
                    bound,
                });
            }
            Stmt::ImportFrom(import) if import.level == 0 => {
                let module = import
                    .module
                    .as_ref()
                    .map(|module| module.to_string())
                    .unwrap_or_default();
                if module == "__future__" {
                    return;
                }
                let names: Vec<_> = import
                    .names
                    .iter()
                    .map(|alias| {
                        (
                            alias.name.to_string(),
                            alias.asname.as_ref().map(|name| name.to_string()),
                        )
                    })
                    .collect();
                for (name, alias) in &names {
                    self.imported
                        .insert(alias.clone().unwrap_or_else(|| name.clone()));
                }
                self.sites.imports.push(Import {
                    range: stmt.range(),
                    module,
                    names: Some(names),
                    bound: String::new(),
                });
            }
            _ => {}
        }
    }

    fn bind(&mut self, name: &str) {
        *self.sites.bound.entry(name.to_owned()).or_default() += 1;
    }

    fn root<'e>(&self, expr: &'e Expr) -> Option<&'e str> {
        match expr {
            Expr::Name(name) => Some(name.id.as_str()),
            Expr::Attribute(attribute) => self.root(&attribute.value),
            _ => None,
        }
    }

    fn known(&self, name: &str) -> bool {
        self.imported.contains(name) || matches!(name, "open" | "compile" | "chr" | "print")
    }
}

impl<'a> Visitor<'a> for Collector {
    fn visit_stmt(&mut self, stmt: &'a Stmt) {
        match stmt {
            Stmt::Expr(expr) if expr.value.is_string_literal_expr() => return,
            Stmt::FunctionDef(function) => {
                self.bind(function.name.as_str());
                for parameter in &*function.parameters {
                    self.bind(parameter.name().as_str());
                }
            }
            Stmt::ClassDef(class) => self.bind(class.name.as_str()),
            Stmt::Import(import) => {
                for alias in &import.names {
                    let name = alias.asname.as_ref().unwrap_or(&alias.name);
                    self.bind(name.split('.').next().unwrap_or(""));
                }
            }
            Stmt::ImportFrom(import) => {
                for alias in &import.names {
                    self.bind(alias.asname.as_ref().unwrap_or(&alias.name).as_str());
                }
            }
            // Names that move between scopes are left alone.
            Stmt::Global(global) => global
                .names
                .iter()
                .for_each(|name| self.bind(name.as_str())),
            Stmt::Nonlocal(outer) => outer.names.iter().for_each(|name| self.bind(name.as_str())),
            _ => {}
        }
        visitor::walk_stmt(self, stmt);
    }

    fn visit_expr(&mut self, expr: &'a Expr) {
        match expr {
            Expr::StringLiteral(literal) => {
                self.sites
                    .strings
                    .push((expr.range(), literal.value.to_str().to_owned()));
            }
            // The quotes of what stands in an f-string may not be free.
            Expr::FString(_) | Expr::TString(_) => return,
            Expr::Name(name) => {
                if name.ctx == ExprContext::Load {
                    self.sites.names.push((name.range, name.id.to_string()));
                } else {
                    self.bind(name.id.as_str());
                }
                self.sites
                    .identifiers
                    .push((name.range, name.id.to_string()));
                return;
            }
            Expr::Lambda(lambda) => {
                for parameter in lambda
                    .parameters
                    .iter()
                    .flat_map(|parameters| parameters.iter())
                {
                    self.bind(parameter.name().as_str());
                }
            }
            Expr::Attribute(attribute) => {
                self.sites
                    .identifiers
                    .push((attribute.attr.range, attribute.attr.to_string()));
                let root = self.root(&attribute.value);
                if attribute.ctx == ExprContext::Load
                    && root.is_some_and(|root| self.imported.contains(root))
                {
                    let name = attribute.attr.to_string();
                    self.sites
                        .attributes
                        .push((attribute.range, attribute.value.range(), name));
                }
            }
            Expr::Call(call) => {
                let known = self.root(&call.func).is_some_and(|root| self.known(root));
                let lone = call
                    .arguments
                    .args
                    .first()
                    .is_some_and(Expr::is_generator_expr);
                if known && !lone {
                    self.sites.calls.push(Call {
                        callee: call.func.range(),
                        inside: call.arguments.range.start().to_usize() + 1,
                        empty: call.arguments.is_empty(),
                    });
                }
            }
            _ => {}
        }
        visitor::walk_expr(self, expr);
    }

    fn visit_annotation(&mut self, _: &'a Expr) {}

    fn visit_pattern(&mut self, _: &'a Pattern) {}
}

/// Replaces parts of a source. Parts that overlap an earlier one are left as they are.
pub(crate) fn replace(source: &str, mut edits: Vec<(usize, usize, String)>) -> String {
    edits.sort_by_key(|(start, end, _)| (*start, *end));
    let mut out = String::with_capacity(source.len() * 2);
    let mut at = 0;
    for (start, end, text) in edits {
        if start < at {
            continue;
        }
        out.push_str(source.get(at..start).unwrap_or(""));
        out.push_str(&text);
        at = end;
    }
    out.push_str(source.get(at..).unwrap_or(""));
    out
}

/// A text as a Python literal in ASCII.
pub(crate) fn quoted(text: &str) -> String {
    let mut out = String::from("'");
    for c in text.chars() {
        match c {
            '\'' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            ' '..='~' => out.push(c),
            c if u32::from(c) < 256 => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if u32::from(c) < 0x1_0000 => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push_str(&format!("\\U{:08x}", u32::from(c))),
        }
    }
    out.push('\'');
    out
}
