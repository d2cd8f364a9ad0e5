//! Facts: what the tree says a program does, before anybody judges it.

use std::collections::HashSet;
use std::rc::Rc;

use casemate_model::finding::{MAX_STEPS, Step, excerpt};
use casemate_model::manifest::{Access, Certainty, Fact, FileFact, Manifest};
use ruff_python_ast::token::{TokenKind, Tokens};
use ruff_python_ast::visitor::{self, Visitor};
use ruff_python_ast::{Expr, ModModule, Stmt};
use ruff_text_size::{Ranged, TextRange};

use crate::place::Lines;
use crate::walk::walk;

/// One step that led to a fact.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) what: Rc<str>,
    pub(crate) range: TextRange,
}

/// The steps as users see them.
pub(crate) fn steps(chain: &[Link], lines: &Lines<'_>) -> Vec<Step> {
    let step = |link: &Link| Step {
        what: excerpt(&link.what),
        place: Some(lines.place_of(link.range)),
    };
    chain.iter().take(MAX_STEPS).map(step).collect()
}

/// A value seen at a place.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) value: Rc<str>,
    pub(crate) range: TextRange,
    pub(crate) certainty: Certainty,
    pub(crate) chain: Vec<Link>,
}

/// A file seen at a place.
#[derive(Debug, Clone)]
pub(crate) struct SeenFile {
    pub(crate) path: String,
    pub(crate) access: Access,
    pub(crate) range: TextRange,
    pub(crate) certainty: Certainty,
    pub(crate) chain: Vec<Link>,
}

/// A qualified name that is used: called, or passed on.
#[derive(Debug, Clone)]
pub(crate) struct Use {
    pub(crate) name: Rc<str>,
    pub(crate) called: bool,
    /// The constant texts among the arguments, and the words of lists.
    pub(crate) texts: Vec<Rc<str>>,
    /// Names of keyword arguments.
    pub(crate) keywords: Vec<String>,
    /// What the arguments stand for: `requests.post(url, data=open(p))` carries `builtins.open()`.
    pub(crate) carries: Vec<Rc<str>>,
    /// How many loops stand around it.
    pub(crate) loops: usize,
    /// Whether one of them has no end and no pause.
    pub(crate) relentless: bool,
    /// Whether it stands in a function that nothing in the program calls.
    pub(crate) dormant: bool,
    /// Whether the first argument is a constant; `None` without arguments.
    pub(crate) constant: Option<bool>,
    pub(crate) range: TextRange,
    pub(crate) certainty: Certainty,
    pub(crate) chain: Vec<Link>,
}

/// Everything that was seen.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub(crate) uses: Vec<Use>,
    pub(crate) modules: Vec<Seen>,
    pub(crate) files: Vec<SeenFile>,
    pub(crate) env: Vec<Seen>,
    pub(crate) hosts: Vec<Seen>,
    /// Protocol, host and port.
    pub(crate) endpoints: Vec<Seen>,
    pub(crate) processes: Vec<Seen>,
    pub(crate) dynamic: Vec<Seen>,
    pub(crate) native: Vec<Seen>,
    pub(crate) deserialisation: Vec<Seen>,
    pub(crate) resources: Vec<Seen>,
    pub(crate) secrets: Vec<Seen>,
    pub(crate) hidden: Vec<Seen>,
    /// What a script of the shell does, in words that its own rules have; by the name of the act.
    pub(crate) acts: Vec<(&'static str, Seen)>,
    /// Attributes by name alone, whatever they are read from.
    pub(crate) attributes: Vec<Seen>,
    /// Texts that are not documentation.
    pub(crate) strings: Vec<Seen>,
    /// The source with comments and documentation blanked; offsets are those of the source.
    pub(crate) code: String,
    /// Whether the resolver gave up, so that all of this is incomplete.
    pub(crate) exhausted: bool,
}

/// Reads the facts of a module.
pub(crate) fn collect(module: &ModModule, tokens: &Tokens, source: &str) -> Facts {
    let mut facts = Facts {
        code: blank(source, tokens, &module.body),
        ..Facts::default()
    };
    facts.exhausted = walk(module, &mut facts);
    facts
}

impl Facts {
    /// The bounded form that users see.
    pub(crate) fn into_manifest(self, lines: &Lines<'_>) -> Manifest {
        let mut manifest = Manifest::default();
        let mut truncated = false;
        let mut fill = |list: &mut Vec<Fact>, seen: Vec<Seen>| {
            let mut known = HashSet::with_hasher(foldhash::fast::RandomState::default());
            for seen in seen {
                if known.insert((Rc::clone(&seen.value), seen.certainty)) {
                    let place = Some(lines.place_of(seen.range));
                    let fact = Fact {
                        value: seen.value.to_string(),
                        place,
                        certainty: seen.certainty,
                        chain: steps(&seen.chain, lines),
                    };
                    Manifest::add(list, &mut truncated, fact);
                }
            }
        };
        fill(&mut manifest.modules, self.modules);
        fill(&mut manifest.env, self.env);
        fill(&mut manifest.hosts, self.hosts);
        fill(&mut manifest.endpoints, self.endpoints);
        fill(&mut manifest.processes, self.processes);
        let made = self
            .acts
            .iter()
            .filter(|(name, _)| name.starts_with("runs-"));
        let made = made.map(|(_, seen)| seen.clone());
        fill(
            &mut manifest.dynamic_code,
            self.dynamic.into_iter().chain(made).collect(),
        );
        fill(&mut manifest.native_code, self.native);
        fill(&mut manifest.deserialisation, self.deserialisation);
        fill(&mut manifest.resources, self.resources);
        fill(&mut manifest.secrets, self.secrets);
        fill(&mut manifest.hidden, self.hidden);
        let escapes = self
            .attributes
            .into_iter()
            .filter(|seen| crate::effects::introspects(&seen.value));
        let mut escapes: Vec<Seen> = escapes.collect();
        let reaching = self
            .uses
            .iter()
            .filter(|used| crate::effects::reaches_in(&used.name));
        escapes.extend(reaching.map(|used| Seen {
            value: Rc::clone(&used.name),
            range: used.range,
            certainty: used.certainty,
            chain: used.chain.clone(),
        }));
        let walks = self
            .strings
            .iter()
            .filter(|seen| crate::effects::format_walks(&seen.value));
        escapes.extend(walks.cloned());
        fill(&mut manifest.introspection, escapes);
        let calls = self
            .uses
            .into_iter()
            .filter(|used| used.called && !used.name.contains(['(', '[']));
        let calls = calls.map(|used| Seen {
            value: used.name,
            range: used.range,
            certainty: used.certainty,
            chain: used.chain,
        });
        fill(&mut manifest.calls, calls.collect());
        manifest.truncated = truncated;
        for file in self.files {
            let place = Some(lines.place_of(file.range));
            manifest.add_file(FileFact {
                value: file.path,
                access: file.access,
                place,
                certainty: file.certainty,
                chain: steps(&file.chain, lines),
            });
        }
        manifest
    }
}

/// The source with comments and documentation strings blanked.
fn blank(source: &str, tokens: &Tokens, body: &[Stmt]) -> String {
    let mut bytes = source.as_bytes().to_vec();
    let mut erase = |range: TextRange| {
        if let Some(part) = bytes.get_mut(range.start().to_usize()..range.end().to_usize()) {
            part.iter_mut()
                .filter(|byte| **byte != b'\n')
                .for_each(|byte| *byte = b' ');
        }
    };
    tokens
        .iter()
        .filter(|token| token.kind() == TokenKind::Comment)
        .for_each(|token| erase(token.range()));
    struct Documentation(Vec<TextRange>);
    impl<'a> Visitor<'a> for Documentation {
        fn visit_stmt(&mut self, stmt: &'a Stmt) {
            if let Stmt::Expr(expr) = stmt
                && expr.value.is_string_literal_expr()
            {
                self.0.push(expr.range);
            } else if !matches!(stmt, Stmt::Expr(_) | Stmt::Assign(_)) {
                visitor::walk_stmt(self, stmt);
            }
        }
        fn visit_expr(&mut self, _: &'a Expr) {}
    }
    let mut documentation = Documentation(Vec::new());
    documentation.visit_body(body);
    documentation.0.into_iter().for_each(&mut erase);
    // Whole tokens were replaced by spaces, so what is left is still UTF-8.
    String::from_utf8(bytes).unwrap_or_default()
}
