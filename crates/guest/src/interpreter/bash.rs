//! Bash contexts: one shell that is fed cell after cell and keeps its variables, functions and folder.

use std::collections::BTreeMap;

use super::kernel::{CellRequest, Command};

/// Reads requests from what was its standard input, each text of one ended by a zero byte: how many variables,
/// the variables, the code. What runs has neither that nor the channel. A message is one write, so one packet.
const DRIVER: &str = r#"
exec 9<&0 </dev/null
trap 'true' INT
printf '\002' >&3
while IFS= read -r -d '' -u 9 __casemate_n; do
    __casemate_undo=()
    while ((__casemate_n-- > 0)); do
        IFS= read -r -d '' -u 9 __casemate_pair
        __casemate_name=${__casemate_pair%%=*}
        if [[ -v $__casemate_name ]]; then
            __casemate_undo+=("export $__casemate_name=$(printf %q "${!__casemate_name}")")
        else
            __casemate_undo+=("unset $__casemate_name")
        fi
        export "$__casemate_pair"
    done
    IFS= read -r -d '' -u 9 __casemate_code
    (exit "${__casemate_last:-0}")
    eval "$__casemate_code" 3>&- 9<&-
    __casemate_last=$?
    for __casemate_pair in "${__casemate_undo[@]}"; do eval "$__casemate_pair"; done
    printf '\001{"kind":"end","exit_code":%d}\n' "$__casemate_last" >&3
done
"#;

pub(super) fn command() -> Command {
    let argv = ["bash", "--noprofile", "--norc", "-c", DRIVER, "bash"];
    Command {
        argv: argv.map(str::to_owned).into(),
        env: BTreeMap::from([("LANG".to_owned(), "C.UTF-8".to_owned())]),
    }
}

/// A cell as the driver reads it. A shell can hold no zero byte, so there is none in it.
pub(super) fn request(cell: &CellRequest<'_>) -> Vec<u8> {
    let pairs: Vec<String> = cell
        .env
        .iter()
        .filter(|(name, _)| is_name(name))
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let mut bytes = pairs.len().to_string().into_bytes();
    bytes.push(0);
    for text in pairs.iter().map(String::as_str).chain([cell.code]) {
        bytes.extend(text.bytes().filter(|&byte| byte != 0));
        bytes.push(0);
    }
    bytes
}

/// What can be a variable's name: the driver puts it into code.
fn is_name(name: &str) -> bool {
    let letter = |c: char| c == '_' || c.is_ascii_alphabetic();
    name.starts_with(letter) && name.chars().all(|c| letter(c) || c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_texts_that_end_in_zero() {
        let env = BTreeMap::from([
            ("A".to_owned(), "b=c".to_owned()),
            ("x;rm".to_owned(), "no".to_owned()),
        ]);
        let cell = CellRequest {
            code: "echo\0 1",
            name: "n",
            env: &env,
            max_result_bytes: 0,
        };
        assert_eq!(request(&cell), b"1\0A=b=c\0echo 1\0");
    }
}
