//! Statements: what runs after what, with which input and into which files.

use casemate_model::manifest::Access;
use ruff_text_size::TextRange;
use tree_sitter::Node;

use super::shell::{Shell, Spot, Var};
use super::tree::{children, fields, text};
use super::value::{Field, Value};
use super::word::Around;
use crate::gaps::GAP;

/// The most readings of one command that are followed.
const MAX_READINGS: usize = 8;

/// A script and where it stands.
#[derive(Clone, Copy)]
pub(super) struct Source<'t> {
    pub(super) text: &'t str,
    pub(super) spot: Spot,
}

impl Source<'_> {
    fn range(self, node: Node<'_>) -> TextRange {
        self.spot.range(node.start_byte(), node.end_byte())
    }
}

/// Where the streams of a statement go.
#[derive(Debug, Default)]
struct Streams {
    stdin: Option<Value>,
    /// Files that the output is written to; whether they are added to.
    out: Vec<(Field, bool)>,
    /// Words that the grammar takes for part of a redirection.
    more: Vec<(usize, usize)>,
}

impl Shell<'_> {
    /// Every statement below a node, in order; what they write.
    pub(super) fn sequence(
        &mut self,
        node: Node<'_>,
        text: &str,
        spot: Spot,
        stdin: &Value,
    ) -> Value {
        self.statements(&children(node), Source { text, spot }, stdin)
    }

    fn statements(&mut self, nodes: &[Node<'_>], source: Source<'_>, stdin: &Value) -> Value {
        let mut out = Value::empty();
        for (index, node) in nodes.iter().enumerate() {
            if !node.is_named() && !node.is_error() {
                continue;
            }
            let background = nodes.get(index + 1).is_some_and(|next| next.kind() == "&");
            let more = if background {
                self.background += 1;
                if self.relentless && self.loops > 0 {
                    self.act("spawns", text(*node, source.text), source.range(*node));
                }
                let more = self.apart(|shell| shell.statement(*node, source, stdin));
                self.background -= 1;
                more
            } else {
                self.statement(*node, source, stdin)
            };
            out = out.then(&more);
        }
        out
    }

    /// One statement; what it writes to its output.
    fn statement(&mut self, node: Node<'_>, source: Source<'_>, stdin: &Value) -> Value {
        if !self.step() {
            return Value::unknown(0);
        }
        match node.kind() {
            "command" => self.command(node, source, stdin, &[]),
            "redirected_statement" => self.redirected(node, source, stdin),
            "pipeline" => self.pipeline(node, source, stdin),
            "list" => {
                let nodes = children(node);
                let (first, rest) = nodes.split_at(nodes.len().min(1));
                let out = self.statements(first, source, stdin);
                let more = self.perhaps(|shell| shell.statements(rest, source, stdin));
                out.then(&more)
            }
            "subshell" => self.apart(|shell| shell.statements(&children(node), source, stdin)),
            "compound_statement"
                if children(node)
                    .first()
                    .is_some_and(|first| first.kind() == "((") =>
            {
                self.text(
                    text(node, source.text),
                    source.spot.inner(node.start_byte()),
                    Around::Document,
                );
                Value::empty()
            }
            "program" | "compound_statement" | "do_group" | "negated_command" => {
                self.statements(&children(node), source, stdin)
            }
            "if_statement" | "elif_clause" | "else_clause" => self.perhaps(|shell| {
                shell.statements(&children(node), source, stdin);
                Value::unknown(0)
            }),
            "while_statement" => self.repeated(node, source, stdin),
            "for_statement" => self.each(node, source, stdin),
            "c_style_for_statement" => self.counted(node, source, stdin),
            "case_statement" => self.case(node, source, stdin),
            "function_definition" => self.define(node, source),
            "variable_assignment" => self.assignment(node, source),
            "variable_assignments" => {
                for child in children(node) {
                    self.statement(child, source, stdin);
                }
                Value::empty()
            }
            "declaration_command" => self.declaration(node, source),
            "unset_command" => self.unset(node, source),
            "test_command" => {
                self.text(
                    text(node, source.text),
                    source.spot.inner(node.start_byte()),
                    Around::Document,
                );
                Value::empty()
            }
            "comment" | "heredoc_body" | "heredoc_start" | "heredoc_end" | "file_descriptor" => {
                Value::empty()
            }
            "file_redirect" | "herestring_redirect" => {
                let mut streams = Streams::default();
                self.redirect(node, source, &mut streams);
                self.leftover(&streams, source, stdin)
            }
            "ERROR" => self.unread(node, source, stdin),
            _ => {
                // A word where a statement was expected: it is run, or put in.
                let range = node.byte_range();
                self.simple(
                    &[(range.start, range.end)],
                    source,
                    stdin,
                    source.range(node),
                )
            }
        }
    }

    /// What the parser did not understand is read again line by line, and by its children.
    fn unread(&mut self, node: Node<'_>, source: Source<'_>, stdin: &Value) -> Value {
        let written = text(node, source.text);
        let range = source.range(node);
        self.string(written, range);
        let whole = written.len() == source.text.trim().len();
        let kids = children(node);
        if kids.iter().any(Node::is_named) {
            self.statements(&kids, source, stdin);
        }
        self.exhausted |= written.split(['\n', ';']).nth(256).is_some();
        for line in written.split(['\n', ';']).take(256) {
            let trimmed = line.trim();
            let is_whole = whole && trimmed.len() == written.trim().len();
            if !trimmed.is_empty() && !is_whole {
                self.process(trimmed, range);
                self.script(trimmed, Spot::Made(range), stdin);
            }
        }
        if whole {
            self.process(written.trim(), range);
        }
        Value::unknown(0)
    }

    fn redirected(&mut self, node: Node<'_>, source: Source<'_>, stdin: &Value) -> Value {
        let mut streams = Streams::default();
        let mut after = Vec::new();
        for child in fields(node, "redirect") {
            self.redirect(child, source, &mut streams);
            if child.kind() == "heredoc_redirect" {
                let inner = children(child);
                after.extend(inner.into_iter().filter(|child| is_statement(child.kind())));
            }
        }
        let stdin = streams.stdin.clone().unwrap_or_else(|| stdin.clone());
        let out = match node.child_by_field_name("body") {
            Some(body) if body.kind() == "command" => {
                self.command(body, source, &stdin, &streams.more)
            }
            Some(body) => {
                self.leftover(&streams, source, &stdin);
                self.statement(body, source, &stdin)
            }
            None => self.leftover(&streams, source, &stdin),
        };
        self.written(&streams, &out);
        let mut last = out;
        for next in after {
            let piped = last.clone();
            self.piped += 1;
            last = self.apart(|shell| shell.statement(next, source, &piped));
            self.piped -= 1;
        }
        last
    }

    /// Words behind a redirection of nothing are a command: `> file rm x`.
    fn leftover(&mut self, streams: &Streams, source: Source<'_>, stdin: &Value) -> Value {
        match (streams.more.first(), streams.more.last()) {
            (Some(&(start, _)), Some(&(_, end))) => {
                let range = source.spot.range(start, end);
                self.simple(&streams.more, source, stdin, range)
            }
            _ => Value::empty(),
        }
    }

    fn written(&mut self, streams: &Streams, out: &Value) {
        for (file, append) in &streams.out {
            let path = self.place_of(&file.text);
            let old = self.files.get(&path).cloned();
            let new = match old {
                Some(old) if *append => old.then(out),
                Some(mut old) if self.weak > 0 => {
                    old.or(out);
                    old
                }
                _ => out.clone(),
            };
            if self.files.len() < 512 {
                self.files.insert(path, new);
            }
        }
    }

    fn redirect(&mut self, node: Node<'_>, source: Source<'_>, streams: &mut Streams) {
        let range = source.range(node);
        match node.kind() {
            "herestring_redirect" => {
                let nodes = children(node);
                let word = nodes
                    .iter()
                    .find(|child| child.is_named() && child.kind() != "file_descriptor");
                if let Some(word) = word {
                    let spot = source.spot.inner(word.start_byte());
                    let value = self.text(text(*word, source.text), spot, Around::Word);
                    streams.stdin = Some(value.then(&Value::of("\n")));
                }
            }
            "heredoc_redirect" => self.document(node, source, streams),
            _ => {
                let operator = children(node)
                    .iter()
                    .filter(|child| !child.is_named() && !child.is_error())
                    .map(|child| text(*child, source.text).to_owned())
                    .collect::<String>();
                let mut destinations = fields(node, "destination").into_iter();
                let Some(first) = destinations.next() else {
                    return;
                };
                for more in destinations {
                    streams.more.push((more.start_byte(), more.end_byte()));
                }
                let raw = text(first, source.text);
                let spot = source.spot.inner(first.start_byte());
                let odd = children(node).iter().any(Node::is_error);
                for fields in self.words(&[(raw, spot)]) {
                    for field in fields {
                        self.pointed(&operator, field, odd, range, streams);
                    }
                }
            }
        }
    }

    /// One file of a redirection.
    fn pointed(
        &mut self,
        operator: &str,
        field: Field,
        odd: bool,
        range: TextRange,
        streams: &mut Streams,
    ) {
        let duplicates =
            operator.ends_with('&') && (field.text.parse::<u32>().is_ok() || field.text == "-");
        if duplicates {
            return;
        }
        if let Some((protocol, address)) = device(&field.text) {
            let (host, port) = address.split_once('/').unwrap_or((address, GAP));
            let endpoint = format!("{protocol}://{host}:{port}");
            self.host(host, Some(endpoint), range);
            self.process(&format!("{operator} {}", field.text), range);
            self.connected = true;
        }
        let reads = operator.starts_with('<');
        if reads {
            self.file(&field, Access::Read, range);
            let value = self.contents(&field.value());
            match &mut streams.stdin {
                Some(stdin) => stdin.or(&value),
                None => streams.stdin = Some(value),
            }
        }
        if !reads || odd {
            self.file(&field, Access::Write, range);
            let disk = ["/dev/sd", "/dev/nvme", "/dev/vd", "/dev/hd", "/dev/mmcblk"];
            if disk.iter().any(|disk| field.text.starts_with(disk)) {
                self.act("destroys", &field.text, range);
            }
            streams.out.push((field, operator.contains(">>")));
        }
    }

    fn document(&mut self, node: Node<'_>, source: Source<'_>, streams: &mut Streams) {
        let nodes = children(node);
        let of_kind = |kind: &str| nodes.iter().find(|child| child.kind() == kind).copied();
        let start = of_kind("heredoc_start").map_or("", |start| text(start, source.text));
        for child in fields(node, "redirect") {
            self.redirect(child, source, streams);
        }
        for child in fields(node, "argument") {
            streams.more.push((child.start_byte(), child.end_byte()));
        }
        let Some(body) = of_kind("heredoc_body") else {
            return;
        };
        let written = text(body, source.text);
        let indented = nodes.iter().any(|child| child.kind() == "<<-");
        let stripped;
        let written = if indented {
            stripped = written
                .lines()
                .map(|line| line.trim_start_matches('\t'))
                .collect::<Vec<_>>()
                .join("\n");
            stripped.as_str()
        } else {
            written
        };
        let quoted = start.contains(['\'', '"', '\\']);
        let value = if quoted {
            Value::of(written)
        } else {
            self.text(
                written,
                source.spot.inner(body.start_byte()),
                Around::Document,
            )
        };
        let range = source.range(body);
        for text in value.texts.clone() {
            self.string(&text, range);
        }
        streams.stdin = Some(value);
    }

    fn pipeline(&mut self, node: Node<'_>, source: Source<'_>, stdin: &Value) -> Value {
        let mut stream = stdin.clone();
        self.piped += 1;
        for child in children(node) {
            if child.is_named() || child.is_error() {
                stream = self.apart(|shell| shell.statement(child, source, &stream));
            }
        }
        self.piped -= 1;
        stream
    }

    /// A body that runs again and again: twice is enough to see what the first round leaves behind.
    fn body(
        &mut self,
        node: Option<Node<'_>>,
        source: Source<'_>,
        stdin: &Value,
        relentless: bool,
    ) -> Value {
        let Some(node) = node else {
            return Value::unknown(0);
        };
        let outer = self.relentless;
        self.relentless |= relentless;
        self.loops += 1;
        let rounds = if self.loops <= 3 { 2 } else { 1 };
        let mut out = Value::empty();
        for _ in 0..rounds {
            out = self.perhaps(|shell| shell.statement(node, source, stdin));
        }
        self.loops -= 1;
        self.relentless = outer;
        Value::unknown(out.taint)
    }

    fn repeated(&mut self, node: Node<'_>, source: Source<'_>, stdin: &Value) -> Value {
        let conditions = fields(node, "condition");
        for condition in &conditions {
            if condition.is_named() {
                self.statement(*condition, source, stdin);
            }
        }
        let condition = conditions
            .iter()
            .map(|node| text(*node, source.text))
            .collect::<String>();
        let until = children(node)
            .first()
            .is_some_and(|first| first.kind() == "until");
        let endless = if until {
            matches!(condition.trim(), "false" | "false;" | "[ 0 ]")
        } else {
            matches!(
                condition.trim(),
                "true"
                    | ":"
                    | "true;"
                    | ":;"
                    | "[ 1 ]"
                    | "[[ 1 ]]"
                    | "((1))"
                    | "(( 1 ))"
                    | "[ 1 ];"
                    | "((1));"
            )
        };
        self.endless(endless, node, source, stdin)
    }

    fn endless(
        &mut self,
        endless: bool,
        node: Node<'_>,
        source: Source<'_>,
        stdin: &Value,
    ) -> Value {
        let body = node.child_by_field_name("body");
        let inside = body.map_or("", |body| text(body, source.text));
        // What is put into the background does not pause anything.
        let pauses = inside.split_inclusive(['\n', ';', '&']).any(|piece| {
            let word = ["sleep", "wait", "read", "break", "exit", "return"];
            !piece.ends_with('&') && word.iter().any(|word| piece.contains(word))
        });
        if endless
            && !inside.contains("break")
            && !inside.contains("exit")
            && !inside.contains("return")
        {
            let seen = self.seen("a loop without an end", source.range(node));
            self.facts.resources.push(seen);
        }
        self.body(body, source, stdin, endless && !pauses)
    }

    fn each(&mut self, node: Node<'_>, source: Source<'_>, stdin: &Value) -> Value {
        let values = fields(node, "value");
        let raws: Vec<(&str, Spot)> = values
            .iter()
            .map(|value| {
                (
                    text(*value, source.text),
                    source.spot.inner(value.start_byte()),
                )
            })
            .collect();
        let mut bound: Option<Value> = None;
        for fields in self.words(&raws) {
            for field in fields {
                if field.glob {
                    self.file(&field, Access::Read, source.range(node));
                }
                // A name that a pattern finds is not known, beyond what the pattern says.
                let text = field.text.replace(['*', '?'], GAP);
                let value =
                    Value::of(if field.glob { text } else { field.text }).tainted(field.taint);
                match &mut bound {
                    Some(bound) => bound.or(&value),
                    None => bound = Some(value),
                }
            }
        }
        let name = node
            .child_by_field_name("variable")
            .map_or("", |name| text(name, source.text))
            .to_owned();
        let bound = bound.unwrap_or_else(|| {
            let args = self.scope.args.iter().flatten();
            args.fold(Value::unknown(0), |mut all, field| {
                all.or(&field.value());
                all
            })
        });
        self.assign(&name, bound, false, source.range(node));
        self.body(node.child_by_field_name("body"), source, stdin, false)
    }

    fn counted(&mut self, node: Node<'_>, source: Source<'_>, stdin: &Value) -> Value {
        let body = node.child_by_field_name("body");
        let end = body.map_or(node.end_byte(), |body| body.start_byte());
        let head = source.text.get(node.start_byte()..end).unwrap_or("");
        self.text(head, source.spot.inner(node.start_byte()), Around::Document);
        for part in ["initializer", "condition", "update"] {
            for part in fields(node, part)
                .iter()
                .filter(|part| part.kind() == "variable_assignment")
            {
                let name = part
                    .child_by_field_name("name")
                    .map_or("", |name| text(name, source.text))
                    .to_owned();
                self.scope().vars.insert(name, Var::One(Value::unknown(0)));
            }
        }
        let endless = node.child_by_field_name("condition").is_none();
        self.endless(endless, node, source, stdin)
    }

    fn case(&mut self, node: Node<'_>, source: Source<'_>, stdin: &Value) -> Value {
        if let Some(value) = node.child_by_field_name("value") {
            self.text(
                text(value, source.text),
                source.spot.inner(value.start_byte()),
                Around::Word,
            );
        }
        for item in children(node)
            .iter()
            .filter(|child| child.kind() == "case_item")
        {
            let inner = children(*item);
            let body = inner
                .iter()
                .position(|child| child.kind() == ")")
                .map_or(0, |at| at + 1);
            let body = inner.get(body..).unwrap_or_default();
            self.perhaps(|shell| shell.statements(body, source, stdin));
        }
        for child in children(node).iter().filter(|child| child.is_error()) {
            self.unread(*child, source, stdin);
        }
        Value::unknown(0)
    }

    fn define(&mut self, node: Node<'_>, source: Source<'_>) -> Value {
        let name = node
            .child_by_field_name("name")
            .map_or("", |name| text(name, source.text));
        let name = name.trim_matches(['"', '\'']).to_owned();
        if let Some(body) = node.child_by_field_name("body") {
            let spot = source.spot.inner(body.start_byte());
            // A redirection of the function stands behind its body.
            let end = node.end_byte().max(body.end_byte());
            let written = source.text.get(body.start_byte()..end).unwrap_or("");
            let weak = self.weak > 0;
            let scope = self.scope();
            match scope.functions.get(&name) {
                // Either may be meant: both are followed.
                Some((old, _)) if weak && !old.contains(written) => {
                    let both = format!("{old}\n{written}");
                    let range = spot.range(0, written.len());
                    scope
                        .functions
                        .insert(name, (both.into(), Spot::Made(range)));
                }
                Some(_) if weak => {}
                _ => {
                    scope.functions.insert(name, (written.into(), spot));
                }
            }
        }
        Value::empty()
    }

    fn assignment(&mut self, node: Node<'_>, source: Source<'_>) -> Value {
        let whole = text(node, source.text);
        let Some(name_node) = node.child_by_field_name("name") else {
            return Value::empty();
        };
        let target = text(name_node, source.text);
        let name = target.split('[').next().unwrap_or(target).to_owned();
        let append = whole
            .get(target.len()..)
            .is_some_and(|rest| rest.starts_with("+="));
        let range = source.range(node);
        // The index is a sum, which runs what is put into it.
        if name_node.kind() == "subscript" {
            self.text(
                target,
                source.spot.inner(name_node.start_byte()),
                Around::Document,
            );
        }
        let Some(value) = node.child_by_field_name("value") else {
            self.assign(&name, Value::empty(), append, range);
            return Value::empty();
        };
        if value.kind() == "array" {
            self.array(&name, value, append, source);
            return Value::empty();
        }
        // The grammar may end a value early; the word goes on to the next blank.
        let start = value.start_byte();
        let raw = source.text.get(start..node.end_byte()).unwrap_or("");
        let value = self.text(raw, source.spot.inner(start), Around::Word);
        if name_node.kind() == "subscript" {
            self.item_assigned(&name, target, value);
        } else {
            self.assign(&name, value, append, range);
        }
        Value::empty()
    }

    fn item_assigned(&mut self, name: &str, target: &str, value: Value) {
        let index = target
            .split_once('[')
            .map_or("", |(_, index)| index.trim_end_matches(']'));
        let at = self.sum(index).and_then(|at| usize::try_from(at).ok());
        let mut items = match self.scope.vars.get(name) {
            Some(Var::Many(items)) => items.clone(),
            Some(Var::One(first)) => vec![first.clone()],
            None => Vec::new(),
        };
        match at {
            Some(at) if at < items.len() => {
                if let Some(item) = items.get_mut(at) {
                    if self.weak > 0 {
                        item.or(&value);
                    } else {
                        *item = value;
                    }
                }
            }
            Some(at) if at < 256 => {
                items.resize(at, Value::empty());
                items.push(value);
            }
            _ => {
                items.iter_mut().for_each(|item| item.or(&value));
                if items.len() < 256 {
                    items.push(value);
                }
            }
        }
        self.scope().vars.insert(name.to_owned(), Var::Many(items));
    }

    fn array(&mut self, name: &str, node: Node<'_>, append: bool, source: Source<'_>) {
        let nodes = children(node);
        let raws: Vec<(&str, Spot)> = nodes
            .iter()
            .filter(|child| child.is_named())
            .map(|child| {
                (
                    text(*child, source.text),
                    source.spot.inner(child.start_byte()),
                )
            })
            .collect();
        let range = source.range(node);
        let mut items: Vec<Value> = match self.scope.vars.get(name) {
            Some(Var::Many(items)) if append || self.weak > 0 => items.clone(),
            _ => Vec::new(),
        };
        let readings = self.words(&raws);
        let mut new: Vec<Value> = Vec::new();
        for fields in readings {
            for (index, field) in fields.into_iter().enumerate() {
                self.string(&field.text, range);
                match new.get_mut(index) {
                    Some(item) => item.or(&field.value()),
                    None => new.push(field.value()),
                }
            }
        }
        if !append && self.weak > 0 && !items.is_empty() {
            for (index, value) in new.into_iter().enumerate() {
                match items.get_mut(index) {
                    Some(item) => item.or(&value),
                    None => items.push(value),
                }
            }
        } else {
            items.extend(new);
        }
        if items.len() > 256 {
            items.truncate(255);
            items.push(Value::unknown(0));
        }
        self.scope().vars.insert(name.to_owned(), Var::Many(items));
    }

    fn declaration(&mut self, node: Node<'_>, source: Source<'_>) -> Value {
        let mut flags = String::new();
        let mut named = false;
        let nodes = children(node);
        let word = nodes.first().map_or("", |first| text(*first, source.text));
        let range = source.range(node);
        for child in nodes.iter().filter(|child| child.is_named()) {
            let written = text(*child, source.text);
            match child.kind() {
                "variable_assignment" => {
                    named = true;
                    let reference =
                        flags.contains('n') && matches!(word, "declare" | "local" | "typeset");
                    self.assignment(*child, source);
                    if reference {
                        // Another name for a variable: whatever is read through it is not known.
                        let name = written.split('=').next().unwrap_or(written).to_owned();
                        self.scope().vars.insert(name, Var::One(Value::unknown(0)));
                    }
                }
                "variable_name" => {
                    named = true;
                    if matches!(word, "local" | "declare" | "typeset")
                        && !self.scope.vars.contains_key(written)
                    {
                        self.assign(written, Value::empty(), false, range);
                    }
                }
                _ if written.starts_with(['-', '+']) => flags.push_str(written),
                _ => {
                    named = true;
                    // `export "$name=$value"`: a word that becomes an assignment.
                    let value =
                        self.text(written, source.spot.inner(child.start_byte()), Around::Word);
                    for text in value.texts.clone() {
                        if let Some((name, text)) = text.split_once('=') {
                            self.assign(name, Value::of(text).tainted(value.taint), false, range);
                        }
                    }
                }
            }
        }
        let shows = flags.contains('p')
            || matches!(word, "export" | "readonly") && !named
            || flags.contains('x') && !named;
        if shows && !named {
            self.dump(word, range);
        }
        if shows {
            return Value::unknown(super::value::ENV);
        }
        Value::empty()
    }

    /// Says that the whole environment is shown.
    pub(super) fn dump(&mut self, word: &str, range: TextRange) {
        self.variable_read("*", range);
        self.act("shows-environment", word, range);
    }

    fn unset(&mut self, node: Node<'_>, source: Source<'_>) -> Value {
        for child in children(node).iter().filter(|child| child.is_named()) {
            let name = text(*child, source.text).to_owned();
            if self.weak == 0 {
                let scope = self.scope();
                scope.functions.remove(&name);
                scope.vars.remove(&name);
            }
        }
        Value::empty()
    }

    fn command(
        &mut self,
        node: Node<'_>,
        source: Source<'_>,
        stdin: &Value,
        more: &[(usize, usize)],
    ) -> Value {
        let mut streams = Streams::default();
        let mut words = Vec::new();
        let mut assignments = Vec::new();
        let mut inner = Vec::new();
        for child in children(node) {
            match child.kind() {
                "variable_assignment" => assignments.push(child),
                "file_redirect" | "herestring_redirect" | "heredoc_redirect" => {
                    self.redirect(child, source, &mut streams);
                }
                "subshell" => inner.push(child),
                "ERROR" => {
                    self.unread(child, source, stdin);
                }
                _ => words.push((child.start_byte(), child.end_byte())),
            }
        }
        words.extend_from_slice(&streams.more);
        words.extend_from_slice(more);
        let words = whole_words(&words, source.text);
        let own = streams.stdin.clone();
        let stdin = own.as_ref().unwrap_or(stdin);
        for child in inner {
            self.statement(child, source, stdin);
        }
        let range = source.range(node);
        let out = if words.is_empty() {
            for assignment in assignments {
                self.assignment(assignment, source);
            }
            Value::empty()
        } else {
            // What stands in front of a command is set for that command alone.
            let name = |node: &Node<'_>| {
                node.child_by_field_name("name")
                    .map_or("", |name| text(name, source.text))
            };
            let names: Vec<&str> = assignments.iter().map(name).collect();
            let before: Vec<Option<Var>> = names
                .iter()
                .map(|name| self.scope.vars.get(*name).cloned())
                .collect();
            let readings = self.readings(&words, source);
            for assignment in &assignments {
                self.assignment(*assignment, source);
            }
            let out = self.run_all(readings, stdin, range);
            for (name, old) in names.into_iter().zip(before) {
                match old {
                    Some(old) => self.scope().vars.insert(name.to_owned(), old),
                    None => self.scope().vars.remove(name),
                };
            }
            out
        };
        self.written(&streams, &out);
        out
    }

    fn readings(&mut self, words: &[(usize, usize)], source: Source<'_>) -> Vec<Vec<Field>> {
        let raws: Vec<(&str, Spot)> = words
            .iter()
            .map(|&(start, end)| {
                (
                    source.text.get(start..end).unwrap_or(""),
                    source.spot.inner(start),
                )
            })
            .collect();
        self.words(&raws)
    }

    /// A command of these words.
    fn simple(
        &mut self,
        words: &[(usize, usize)],
        source: Source<'_>,
        stdin: &Value,
        range: TextRange,
    ) -> Value {
        let readings = self.readings(words, source);
        self.run_all(readings, stdin, range)
    }

    /// Every reading of a command.
    fn run_all(&mut self, readings: Vec<Vec<Field>>, stdin: &Value, range: TextRange) -> Value {
        let mut out: Option<Value> = None;
        let several = readings.len() > 1;
        self.weak += usize::from(several);
        for words in readings.into_iter().take(MAX_READINGS) {
            let one = self.run(&words, stdin, range);
            match &mut out {
                Some(out) => out.or(&one),
                None => out = Some(one),
            }
        }
        self.weak -= usize::from(several);
        out.unwrap_or_else(Value::empty)
    }
}

fn is_statement(kind: &str) -> bool {
    matches!(
        kind,
        "command"
            | "pipeline"
            | "list"
            | "redirected_statement"
            | "subshell"
            | "compound_statement"
            | "while_statement"
            | "for_statement"
            | "if_statement"
            | "case_statement"
            | "ERROR"
    )
}

/// The protocol and the address of bash's files that are connections.
fn device(path: &str) -> Option<(&'static str, &str)> {
    let tcp = path.strip_prefix("/dev/tcp/").map(|rest| ("tcp", rest));
    tcp.or_else(|| path.strip_prefix("/dev/udp/").map(|rest| ("udp", rest)))
}

/// Words that touch are one word, whatever the grammar makes of them: `rm$IFS-rf$IFS/`. A brace that the
/// grammar leaves out in front of a list belongs to it: `{rm,-rf,/}`.
fn whole_words(words: &[(usize, usize)], text: &str) -> Vec<(usize, usize)> {
    let mut whole: Vec<(usize, usize)> = Vec::new();
    for &(start, end) in words {
        match whole.last_mut() {
            Some(last) if last.1 == start => last.1 = end,
            _ => whole.push((start, end)),
        }
    }
    if let Some(first) = whole.first_mut()
        && text
            .get(first.0..first.1)
            .is_some_and(|word| word.contains(','))
        && text
            .get(..first.0)
            .is_some_and(|before| before.ends_with('{'))
    {
        first.0 -= 1;
    }
    whole
}
