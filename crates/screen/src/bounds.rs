//! Bounds on nesting, checked on tokens before anything recurses over the source.
//!
//! The parser, the linter, the walk over the tree and the freeing of the tree all recurse as deep as
//! the source nests, and a stack that overflows takes the whole process with it. The lexer does not
//! recurse, so one pass over its tokens finds an upper bound of that depth. CPython's own compiler
//! gives up at 200 brackets, 100 indents and a little under 3,000 nested operations.

use memchr::memchr2_iter;
use ruff_python_ast::token::TokenKind;
use ruff_python_parser::{Mode, lexer};

/// The deepest nesting of brackets and f-strings; CPython's tokenizer has the same bound.
pub(crate) const MAX_BRACKETS: usize = 200;
/// The deepest nesting of indented blocks; CPython's tokenizer has the same bound.
pub(crate) const MAX_INDENTS: usize = 100;
/// Steps of leading white space on physical lines. Hanging indents inside brackets count here, and
/// the parser may take those for blocks when it recovers from an error.
pub(crate) const MAX_INDENT_STEPS: usize = MAX_INDENTS + MAX_BRACKETS;
/// The longest chain of operators, attributes, calls and the like that can nest.
pub(crate) const MAX_CHAIN: usize = 2_000;
/// The most `elif` in one chain; CPython's compiler nests them.
pub(crate) const MAX_ELIFS: usize = 2_000;
/// Lambdas and conditional keywords nest at a cost that grows faster than their number.
pub(crate) const MAX_LAMBDAS: usize = 200;
/// Keywords of compound statements on one logical line, outside brackets.
pub(crate) const MAX_KEYWORDS: usize = 400;

/// What is nested too deep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Excess {
    /// What, in the plural.
    pub(crate) what: &'static str,
    /// How many are allowed.
    pub(crate) allowed: usize,
    /// The first line up to which the bound is passed, counted from 1.
    pub(crate) line: usize,
}

/// Checks every bound.
///
/// # Errors
/// The first bound that is passed, and where.
pub(crate) fn check(source: &str, mode: Mode) -> Result<(), Excess> {
    let Err((what, allowed)) = scan(source, mode) else {
        return Ok(());
    };
    let line = first_line(source, |prefix| scan(prefix, mode).is_err());
    Err(Excess {
        what,
        allowed,
        line,
    })
}

type Bound = (&'static str, usize);

fn scan(source: &str, mode: Mode) -> Result<(), Bound> {
    indent_steps(source)?;
    let mut lexer = lexer::lex(source, mode);
    let mut depth = Depth::new();
    // An error consumes at least one character, so a lexer that stays in place cannot exist; the
    // bound keeps that true even if it is not.
    for _ in 0..=source
        .len()
        .saturating_mul(2)
        .saturating_add(MAX_INDENTS + 8)
    {
        let kind = lexer.next_token();
        if kind.is_eof() {
            return Ok(());
        }
        depth.see(kind)?;
    }
    Err(("tokens", source.len()))
}

/// The smallest number of lines for which `exceeds` holds; it is monotone because a lexer that reads
/// a prefix sees the same tokens up to the cut.
fn first_line(source: &str, exceeds: impl Fn(&str) -> bool) -> usize {
    let ends: Vec<usize> = source
        .match_indices('\n')
        .map(|(index, _)| index + 1)
        .collect();
    let (mut low, mut high) = (0, ends.len());
    while low < high {
        let middle = low.midpoint(high);
        let prefix = ends
            .get(middle)
            .and_then(|&end| source.get(..end))
            .unwrap_or(source);
        if exceeds(prefix) {
            high = middle
        } else {
            low = middle + 1
        }
    }
    low + 1
}

fn indent_steps(source: &str) -> Result<(), Bound> {
    let mut widths: Vec<usize> = Vec::new();
    let source = source.as_bytes();
    let ends = memchr2_iter(b'\n', b'\r', source).chain([source.len()]);
    let mut start = 0;
    for end in ends {
        let line = source.get(start..end).unwrap_or_default();
        start = end + 1;
        let mut bytes = line.iter();
        let Some(width) = bytes.position(|byte| !matches!(byte, b' ' | b'\t' | 0x0c)) else {
            continue;
        };
        if line.get(width) == Some(&b'#') {
            continue;
        }
        while widths.last().is_some_and(|&last| last >= width) {
            widths.pop();
        }
        if width > 0 {
            widths.push(width);
        }
        if widths.len() > MAX_INDENT_STEPS {
            return Err(("steps of indentation", MAX_INDENT_STEPS));
        }
    }
    Ok(())
}

/// One open bracket or f-string.
struct Level {
    opener: TokenKind,
    /// Tokens that can nest since the last one that ends an element.
    chain: usize,
    /// Lambdas whose parameters are still being read: a comma between those ends nothing.
    open_lambdas: usize,
    lambdas: usize,
    yields: usize,
}

struct Depth {
    levels: Vec<Level>,
    /// The sum of the chains of all open levels.
    chain: usize,
    lambdas: usize,
    yields: usize,
    indents: usize,
    keywords: usize,
    /// The length of the `elif` chain in each block.
    elifs: Vec<usize>,
    line_start: bool,
}

impl Depth {
    fn new() -> Self {
        Self {
            levels: vec![Level::new(TokenKind::EndOfFile)],
            chain: 0,
            lambdas: 0,
            yields: 0,
            indents: 0,
            keywords: 0,
            elifs: vec![0],
            line_start: true,
        }
    }

    fn see(&mut self, kind: TokenKind) -> Result<(), Bound> {
        match kind {
            TokenKind::Comment | TokenKind::NonLogicalNewline => return Ok(()),
            TokenKind::Indent | TokenKind::Dedent => return self.indent(kind),
            TokenKind::Newline => self.statement_ends(),
            TokenKind::Semi if self.levels.len() == 1 => self.element_ends(),
            TokenKind::Comma => self.element_ends(),
            TokenKind::FStringMiddle | TokenKind::TStringMiddle => self.element_ends(),
            TokenKind::Lpar
            | TokenKind::Lsqb
            | TokenKind::Lbrace
            | TokenKind::FStringStart
            | TokenKind::TStringStart => self.open(kind),
            TokenKind::Rpar
            | TokenKind::Rsqb
            | TokenKind::Rbrace
            | TokenKind::FStringEnd
            | TokenKind::TStringEnd => self.close(kind),
            TokenKind::Colon => self.colon(),
            kind if nests(kind) => self.count(kind),
            _ => {}
        }
        self.elif(kind)?;
        self.line_start = kind == TokenKind::Newline;
        self.check()
    }

    fn check(&self) -> Result<(), Bound> {
        let bounds = [
            ("nested brackets", self.levels.len() - 1, MAX_BRACKETS),
            ("chained operations", self.chain, MAX_CHAIN),
            ("nested lambdas", self.lambdas.max(self.yields), MAX_LAMBDAS),
            (
                "compound statements on one line",
                self.keywords,
                MAX_KEYWORDS,
            ),
        ];
        match bounds.into_iter().find(|(_, seen, allowed)| seen > allowed) {
            Some((what, _, allowed)) => Err((what, allowed)),
            None => Ok(()),
        }
    }

    fn indent(&mut self, kind: TokenKind) -> Result<(), Bound> {
        if kind == TokenKind::Dedent {
            self.indents = self.indents.saturating_sub(1);
            if self.elifs.len() > 1 {
                self.elifs.pop();
            }
            return Ok(());
        }
        self.indents += 1;
        self.elifs.push(0);
        if self.indents > MAX_INDENTS {
            Err(("indented blocks", MAX_INDENTS))
        } else {
            Ok(())
        }
    }

    fn elif(&mut self, kind: TokenKind) -> Result<(), Bound> {
        let Some(chain) = self.elifs.last_mut() else {
            return Ok(());
        };
        match kind {
            TokenKind::Elif => *chain += 1,
            TokenKind::If if self.line_start => *chain = 0,
            _ => {}
        }
        if *chain > MAX_ELIFS {
            Err(("`elif` branches", MAX_ELIFS))
        } else {
            Ok(())
        }
    }

    /// The end of a logical line ends everything, except what is still open then: that is an error of
    /// syntax, and the parser, looking for the end of a bracket or for the colon of a lambda, nests
    /// what it finds on the lines that follow.
    fn statement_ends(&mut self) {
        if self.levels.len() > 1 || self.levels.iter().any(|level| level.open_lambdas > 0) {
            return;
        }
        if let Some(level) = self.levels.last_mut() {
            *level = Level::new(TokenKind::EndOfFile);
        }
        (self.chain, self.lambdas, self.yields, self.keywords) = (0, 0, 0, 0);
    }

    /// A comma or its like: what came before is a sibling of what follows, not its parent. Lambdas in
    /// the middle of their parameters and everything after a `yield` stay open.
    fn element_ends(&mut self) {
        let Some(level) = self.levels.last_mut() else {
            return;
        };
        if level.open_lambdas == 0 {
            self.chain -= level.chain;
            self.lambdas -= level.lambdas;
            (level.chain, level.lambdas) = (0, 0);
        }
    }

    fn open(&mut self, kind: TokenKind) {
        self.count(kind);
        self.levels.push(Level::new(kind));
    }

    /// A closer that does not fit is an error of syntax. It closes nothing here, which can only make
    /// the depth look larger than it is.
    fn close(&mut self, kind: TokenKind) {
        let fits = self
            .levels
            .last()
            .is_some_and(|level| closer(level.opener) == Some(kind));
        if !fits || self.levels.len() == 1 {
            return;
        }
        if let Some(level) = self.levels.pop() {
            self.chain -= level.chain;
            self.lambdas -= level.lambdas;
            self.yields -= level.yields;
        }
        let in_string = self
            .levels
            .last()
            .is_some_and(|level| closer(level.opener).is_some_and(|end| !is_bracket(end)));
        if in_string {
            self.element_ends();
        }
    }

    fn colon(&mut self) {
        if let Some(level) = self.levels.last_mut() {
            level.open_lambdas = level.open_lambdas.saturating_sub(1);
        }
    }

    fn count(&mut self, kind: TokenKind) {
        let outside = self.levels.len() == 1;
        let Some(level) = self.levels.last_mut() else {
            return;
        };
        level.chain += 1;
        self.chain += 1;
        match kind {
            TokenKind::Lambda => {
                level.open_lambdas += 1;
                level.lambdas += 1;
                self.lambdas += 1;
            }
            TokenKind::Yield => {
                level.yields += 1;
                self.yields += 1;
            }
            kind if outside && is_compound(kind) => self.keywords += 1,
            _ => {}
        }
    }
}

impl Level {
    fn new(opener: TokenKind) -> Self {
        Self {
            opener,
            chain: 0,
            open_lambdas: 0,
            lambdas: 0,
            yields: 0,
        }
    }
}

fn closer(opener: TokenKind) -> Option<TokenKind> {
    match opener {
        TokenKind::Lpar => Some(TokenKind::Rpar),
        TokenKind::Lsqb => Some(TokenKind::Rsqb),
        TokenKind::Lbrace => Some(TokenKind::Rbrace),
        TokenKind::FStringStart => Some(TokenKind::FStringEnd),
        TokenKind::TStringStart => Some(TokenKind::TStringEnd),
        _ => None,
    }
}

fn is_bracket(closer: TokenKind) -> bool {
    matches!(
        closer,
        TokenKind::Rpar | TokenKind::Rsqb | TokenKind::Rbrace
    )
}

fn is_compound(kind: TokenKind) -> bool {
    matches!(
        kind,
        TokenKind::If
            | TokenKind::Elif
            | TokenKind::Else
            | TokenKind::For
            | TokenKind::While
            | TokenKind::With
            | TokenKind::Try
            | TokenKind::Except
            | TokenKind::Finally
            | TokenKind::Def
            | TokenKind::Class
            | TokenKind::Async
            | TokenKind::Match
            | TokenKind::Case
    )
}

/// Everything but what is known to be flat: names, literals, punctuation between siblings.
fn nests(kind: TokenKind) -> bool {
    !matches!(
        kind,
        TokenKind::Name
            | TokenKind::Int
            | TokenKind::Float
            | TokenKind::Complex
            | TokenKind::String
            | TokenKind::True
            | TokenKind::False
            | TokenKind::None
            | TokenKind::Ellipsis
            | TokenKind::Equal
            | TokenKind::Semi
            | TokenKind::Rarrow
            | TokenKind::Exclamation
            | TokenKind::IpyEscapeCommand
            | TokenKind::Pass
            | TokenKind::Break
            | TokenKind::Continue
    )
}
