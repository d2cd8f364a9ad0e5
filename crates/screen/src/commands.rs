//! Commands: what is started, as words, and what those words start in turn.

use std::rc::Rc;

use ruff_python_ast::Expr;
use ruff_text_size::TextRange;

use crate::facts::Use;
use crate::gaps::GAP;
use crate::resolve::text_of;
use crate::value::{Args, Value};
use crate::walk::Walker;

/// Shells: what follows `-c` is a command of its own.
const SHELLS: &[&str] = &["sh", "bash", "dash", "zsh", "ksh", "ash"];
/// Programs that start the command after their own options and settings.
const CARRIERS: &[&str] = &[
    "env", "nohup", "nice", "timeout", "exec", "setsid", "time", "busybox",
];

/// The forms of a command that rules look at: as it is written; without the folder of its program;
/// without programs in front of it that only start it; and what a shell is told to run.
pub(crate) fn forms(command: &str) -> Vec<String> {
    let mut forms = vec![command.to_owned()];
    for _ in 0..4 {
        let Some(next) = forms.last().and_then(|last| simpler(last)) else {
            break;
        };
        forms.push(next);
    }
    forms
}

fn simpler(command: &str) -> Option<String> {
    let command = command.trim_start();
    let (program, rest) = command
        .split_once(char::is_whitespace)
        .unwrap_or((command, ""));
    let rest = rest.trim_start();
    if let Some((_, base)) = program.rsplit_once('/') {
        return (!base.is_empty()).then(|| format!("{base} {rest}").trim_end().to_owned());
    }
    if SHELLS.contains(&program)
        && let Some((options, inner)) = rest.split_once(char::is_whitespace)
        && options.starts_with('-')
        && options.ends_with('c')
    {
        return Some(inner.trim().trim_matches(['\'', '"']).to_owned());
    }
    if CARRIERS.contains(&program) {
        let own = |word: &&str| {
            word.starts_with('-')
                || word.contains('=')
                || word.starts_with(|c: char| c.is_ascii_digit())
        };
        let words: Vec<&str> = rest.split_whitespace().skip_while(own).collect();
        return (!words.is_empty()).then(|| words.join(" "));
    }
    None
}

impl<'a> Walker<'a, '_> {
    pub(crate) fn processes(&mut self, used: &Use, args: &Args<'a>, range: TextRange) {
        let mut commands = Vec::new();
        command_texts(
            args.get(0, &["args", "cmd", "command", "program"]),
            &mut commands,
        );
        let words = ["exec", "spawn"].iter().any(|way| used.name.contains(way))
            || used.name.ends_with("Process");
        if words && used.texts.len() > 1 {
            let words = used
                .texts
                .iter()
                .take(16)
                .map(|text| &**text)
                .collect::<Vec<_>>();
            commands.push(words.join(" ").into());
        }
        // `["ping", address]` with an address of which only a part is known.
        let gaps = commands.iter().any(|command| command.contains(GAP));
        if let (true, Some((Expr::List(list), cx))) = (gaps, args.exprs().next()) {
            let outer = std::mem::replace(&mut self.cx, cx.clone());
            let words = list.elts.iter().take(64).map(|word| self.partial(word, 0));
            let words: Vec<_> = words
                .map(|word| word.unwrap_or_else(|| GAP.to_owned()))
                .collect();
            commands = vec![words.join(" ").into()];
            self.cx = outer;
        }
        if commands.is_empty()
            && let Some((expr, cx)) = args.exprs().next()
        {
            let outer = std::mem::replace(&mut self.cx, cx.clone());
            commands.extend(self.partial(expr, 0).map(Rc::from));
            self.cx = outer;
        }
        if commands.is_empty() {
            commands.push("?".into());
        }
        for value in args.get(0, &["args", "cmd", "command"]).to_vec() {
            self.python_command(&value, range);
        }
        for command in commands {
            let seen = self.seen(&command, range, used.certainty);
            self.facts.processes.push(seen);
        }
    }

    /// `["python", "-c", CODE]`: the code is read like the program itself.
    fn python_command(&mut self, value: &Value<'a>, range: TextRange) {
        let words: Vec<Rc<str>> = match value {
            Value::List(items) => items
                .iter()
                .take(16)
                .filter_map(|item| text_of(&item.spread()))
                .collect(),
            Value::Text(text) => match text.split_once(" -c ") {
                Some((program, code)) => vec![
                    program.trim().into(),
                    "-c".into(),
                    code.trim().trim_matches(['\'', '"']).into(),
                ],
                None => return,
            },
            _ => return,
        };
        let [program, rest @ ..] = words.as_slice() else {
            return;
        };
        let base = program.rsplit('/').next().unwrap_or(program);
        let place = rest
            .iter()
            .position(|word| &**word == "-c")
            .and_then(|at| rest.get(at + 1));
        if let (true, Some(code)) = (base.starts_with("python"), place)
            && let Some(body) = self.resolver.parse(code)
        {
            self.resolver.bindings.add(body, 0);
            self.inner_code(body, range);
        }
    }
}

/// The commands among values: texts, and lists of words.
fn command_texts(values: &[Value<'_>], commands: &mut Vec<Rc<str>>) {
    for value in values {
        match value {
            Value::List(items) => {
                let words: Vec<Rc<str>> = items
                    .iter()
                    .take(64)
                    .map(|item| text_of(&item.spread()).unwrap_or_else(|| GAP.into()))
                    .collect();
                if words.iter().any(|word| &**word != GAP) {
                    commands.push(words.join(" ").into());
                }
            }
            Value::Any(inner) => command_texts(inner, commands),
            value => commands.extend(value.as_text()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_seen_through_what_starts_them() {
        for (command, last) in [
            ("/usr/bin/id", "id"),
            ("sh -c 'cat /etc/passwd'", "cat /etc/passwd"),
            ("/bin/bash -lc \"env FOO=1 whoami\"", "whoami"),
            ("nohup nice -n 5 xmrig -o pool", "xmrig -o pool"),
            ("timeout 5 ls", "ls"),
            ("ls -l", "ls -l"),
            ("bash script.sh", "bash script.sh"),
            ("env", "env"),
            ("/", "/"),
            ("", ""),
        ] {
            assert_eq!(
                forms(command).last().map(String::as_str),
                Some(last),
                "{command}"
            );
        }
    }
}
