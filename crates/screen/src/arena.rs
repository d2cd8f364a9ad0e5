//! Programs inside programs: the trees of code that was found in texts, kept as long as the outer tree.

use std::cell::OnceCell;

use ruff_python_ast::{Expr, ModModule, Stmt};
use ruff_python_parser::Parsed;

/// Trees that live as long as the arena. It only grows, so what it gave out stays valid.
#[derive(Default)]
pub(crate) struct Arena {
    slots: Vec<OnceCell<Parsed<ModModule>>>,
}

/// The most programs inside one program.
pub(crate) const MAX_INNER: usize = 64;

impl Arena {
    /// An arena with room for [`MAX_INNER`] trees.
    pub(crate) fn new() -> Self {
        Self {
            slots: std::iter::repeat_with(OnceCell::new)
                .take(MAX_INNER)
                .collect(),
        }
    }

    /// Keeps a tree; its body, or nothing when the arena is full.
    pub(crate) fn keep(&self, parsed: Parsed<ModModule>) -> Option<&[Stmt]> {
        let slot = self.slots.iter().find(|slot| slot.get().is_none())?;
        Some(&slot.get_or_init(|| parsed).syntax().body)
    }
}

/// The expression that a module is, when it is only that.
pub(crate) fn only_expression(body: &[Stmt]) -> Option<&Expr> {
    match body {
        [Stmt::Expr(stmt)] => Some(&stmt.value),
        _ => None,
    }
}
