//! The driver's Python, embedded: each file by its name below the folder it lies in.

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../guest/", $name)))),*]
    };
}

/// What every guest has.
pub const SHARED: &[(&str, &str)] = files![
    "casemate_guest/__init__.py",
    "casemate_guest/cells.py",
    "casemate_guest/channel.py",
    "casemate_guest/charts.py",
    "casemate_guest/denied.py",
    "casemate_guest/display.py",
    "casemate_guest/errors.py",
    "casemate_guest/figures.py",
    "casemate_guest/fonts.py",
    "casemate_guest/late.py",
    "casemate_guest/missing.py",
    "casemate_guest/observe.py",
    "casemate_guest/plain.py",
    "casemate_guest/runner.py",
    "casemate_guest/shell.py",
    "casemate_guest/stacks.py",
    "casemate_guest/tables.py",
    "casemate_guest/threads.py",
    "casemate_guest/warm.py",
    "casemate_guest/wire.py",
];

/// What a guest has beside it whose processes, threads and native code are real.
pub const NATIVE: &[(&str, &str)] = files![
    "casemate_guest/container.py",
    "casemate_guest/docker.py",
    "casemate_guest/native.py",
    "casemate_guest/native_shell.py",
    "casemate_guest/session.py",
    "casemate_guest/zygote.py",
    "casemate_plain.py",
];

#[cfg(test)]
mod tests {
    use super::{NATIVE, SHARED};

    #[test]
    fn every_file_of_the_driver_is_embedded() {
        let guest = concat!(env!("CARGO_MANIFEST_DIR"), "/guest");
        for folder in ["", "casemate_guest/"] {
            for entry in std::fs::read_dir(format!("{guest}/{folder}")).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                if name.ends_with(".py") {
                    let path = format!("{folder}{name}");
                    let mut all = SHARED.iter().chain(NATIVE);
                    assert!(
                        all.any(|(known, _)| *known == path),
                        "{path} is not embedded"
                    );
                }
            }
        }
    }
}
