//! What the guest is: its own Python, embedded, how it is called, and its environment.

/// How the guest's driver is called, every time: one expression, because the reactor parses it anew.
pub(crate) const DRIVER: &str = "__import__('casemate_guest').main()";
/// The same for a cell of a session.
pub(crate) const CELL: &str = "__import__('casemate_guest').cell()";

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

/// What this backend's guest has of its own, by its name below the library's folder.
pub(crate) const OWN: &[(&str, &str)] = &[("init.py", INIT), ("requirements.txt", REQUIREMENTS)];

/// Every file that decides what the snapshot holds, by its name below the library's folder.
pub(crate) fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    OWN.iter().chain(casemate_driver::guest::SHARED).copied()
}
