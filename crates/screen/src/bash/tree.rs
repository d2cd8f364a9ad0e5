//! The parse of a script, within bounds of time and depth.

use std::ops::ControlFlow;
use std::time::Instant;

use tree_sitter::{Node, ParseOptions, ParseState, Parser, Tree};

/// The deepest tree that is walked. Scripts of people stay below fifty.
pub(super) const MAX_DEPTH: usize = 400;

/// Why there is no tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoTree {
    /// Something on this line is nested too deep.
    Deep(usize),
    /// The parser did not end in time.
    Slow,
    /// The parser does not know its own language.
    Broken,
}

/// Parses a script.
///
/// # Errors
/// [`NoTree`].
pub(super) fn parse(text: &str, until: Instant) -> Result<Tree, NoTree> {
    let mut parser = Parser::new();
    let language = tree_sitter_bash::LANGUAGE.into();
    parser.set_language(&language).map_err(|_| NoTree::Broken)?;
    let mut over = |_: &ParseState| {
        if Instant::now() >= until {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    let options = ParseOptions::new().progress_callback(&mut over);
    let bytes = text.as_bytes();
    let mut read = |offset: usize, _| bytes.get(offset..).unwrap_or_default();
    let tree = parser.parse_with_options(&mut read, None, Some(options));
    let tree = tree.ok_or(NoTree::Slow)?;
    match deepest(&tree) {
        (depth, line) if depth > MAX_DEPTH => Err(NoTree::Deep(line)),
        _ => Ok(tree),
    }
}

/// How deep the tree is and on which line, at most a little over the bound.
fn deepest(tree: &Tree) -> (usize, usize) {
    let mut cursor = tree.walk();
    let (mut depth, mut most) = (0usize, (0, 1));
    loop {
        if depth > most.0 {
            most = (depth, cursor.node().start_position().row + 1);
            if depth > MAX_DEPTH {
                return most;
            }
        }
        if cursor.goto_first_child() {
            depth += 1;
            continue;
        }
        while !cursor.goto_next_sibling() {
            if !cursor.goto_parent() {
                return most;
            }
            depth -= 1;
        }
    }
}

/// The first place that is not bash, as a range of bytes.
pub(super) fn first_error(tree: &Tree) -> Option<(usize, usize)> {
    let root = tree.root_node();
    if !root.has_error() {
        return None;
    }
    let mut cursor = tree.walk();
    loop {
        let node = cursor.node();
        // One that holds another says less: all of a script may be one error.
        if node.has_error() && within(node) && cursor.goto_first_child() {
            continue;
        }
        if node.is_error() || node.is_missing() {
            let start = stray(node).unwrap_or(node).start_byte();
            return Some((start, node.end_byte()));
        }
        while !cursor.goto_next_sibling() {
            if !cursor.goto_parent() {
                return Some((root.start_byte(), root.start_byte()));
            }
        }
    }
}

/// The first word of an error's that belongs to no statement: what stands before it was understood.
fn stray(error: Node<'_>) -> Option<Node<'_>> {
    children(error)
        .into_iter()
        .find(|child| !child.is_named() && !matches!(child.kind(), "\n" | ";" | "&"))
}

/// Whether an error stands inside a node, not the node itself.
fn within(node: Node<'_>) -> bool {
    children(node)
        .into_iter()
        .any(|child| child.is_error() || child.is_missing() || child.has_error())
}

/// The text of a node.
pub(super) fn text<'t>(node: Node<'_>, source: &'t str) -> &'t str {
    source.get(node.byte_range()).unwrap_or("")
}

/// The children of a node, those without a name too.
pub(super) fn children(node: Node<'_>) -> Vec<Node<'_>> {
    let mut cursor = node.walk();
    node.children(&mut cursor).collect()
}

/// The children of a node that stand in a field.
pub(super) fn fields<'t>(node: Node<'t>, field: &str) -> Vec<Node<'t>> {
    let mut cursor = node.walk();
    node.children_by_field_name(field, &mut cursor).collect()
}
