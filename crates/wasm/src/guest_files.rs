//! What the guest is: its own Python, embedded, how it is called, and its environment.

/// How the guest's driver is called, every time: one expression, because the reactor parses it anew.
pub(crate) const DRIVER: &str = "__import__('casemate_guest').main()";

/// The interpreter's environment; nothing of the host's is in it.
pub(crate) const GUEST_ENV: [(&str, &str); 5] = [
    ("HOME", "/tmp"),
    ("MPLBACKEND", "agg"),
    ("MPLCONFIGDIR", "/tmp"),
    ("PYTHONTZPATH", ""),
    ("TMPDIR", "/tmp"),
];

/// The code of the initialisation turn.
pub(crate) const INIT: &str = include_str!("../guest/init.py");
/// The pure wheels beside the guest's own, by version and hash.
pub(crate) const REQUIREMENTS: &str = include_str!("../guest/requirements.txt");

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../guest/", $name)))),*]
    };
}

/// Every file that decides what the snapshot holds, by its name below the library's folder.
pub(crate) const ALL: &[(&str, &str)] = files![
    "init.py",
    "requirements.txt",
    "casemate_guest/__init__.py",
    "casemate_guest/channel.py",
    "casemate_guest/charts.py",
    "casemate_guest/denied.py",
    "casemate_guest/display.py",
    "casemate_guest/errors.py",
    "casemate_guest/figures.py",
    "casemate_guest/missing.py",
    "casemate_guest/observe.py",
    "casemate_guest/runner.py",
    "casemate_guest/shell.py",
    "casemate_guest/tables.py",
    "casemate_guest/threads.py",
];

#[cfg(test)]
mod tests {
    use super::ALL;

    #[test]
    fn every_file_of_the_guest_is_embedded() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/guest/casemate_guest");
        for entry in std::fs::read_dir(folder).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".py") {
                let path = format!("casemate_guest/{name}");
                assert!(
                    ALL.iter().any(|(known, _)| *known == path),
                    "{path} is not embedded"
                );
            }
        }
    }
}
