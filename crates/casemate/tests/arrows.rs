//! The workspace's arrows: who may depend on whom. An arrow that is not in the table fails.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;

use cargo_metadata::{DependencyKind, MetadataCommand};

/// Crate, and those of ours it may depend on.
const ARROWS: &[(&str, &[&str])] = &[
    ("casemate-model", &[]),
    ("casemate-linux", &[]),
    ("casemate-screen", &["casemate-model"]),
    ("casemate-backend", &["casemate-model"]),
    ("casemate-watch", &["casemate-model"]),
    (
        "casemate-driver",
        &["casemate-model", "casemate-backend", "casemate-linux"],
    ),
    (
        "casemate-wasm",
        &[
            "casemate-model",
            "casemate-backend",
            "casemate-driver",
            "casemate-envd",
            "casemate-linux",
        ],
    ),
    (
        "casemate-images",
        &[
            "casemate-model",
            "casemate-backend",
            "casemate-driver",
            "casemate-linux",
        ],
    ),
    (
        "casemate-jail",
        &[
            "casemate-model",
            "casemate-backend",
            "casemate-driver",
            "casemate-images",
            "casemate-linux",
        ],
    ),
    (
        "casemate-container",
        &[
            "casemate-model",
            "casemate-backend",
            "casemate-driver",
            "casemate-images",
            "casemate-linux",
        ],
    ),
    ("casemate-envd", &[]),
    (
        "casemate-guest",
        &[
            "casemate-model",
            "casemate-backend",
            "casemate-driver",
            "casemate-envd",
            "casemate-linux",
        ],
    ),
    (
        "casemate-engine",
        &[
            "casemate-model",
            "casemate-screen",
            "casemate-backend",
            "casemate-watch",
        ],
    ),
    (
        "casemate-server",
        &[
            "casemate-model",
            "casemate-screen",
            "casemate-backend",
            "casemate-engine",
            "casemate-envd",
            "casemate-watch",
        ],
    ),
    (
        "casemate",
        &[
            "casemate-server",
            "casemate-model",
            "casemate-screen",
            "casemate-backend",
            "casemate-linux",
            "casemate-wasm",
            "casemate-images",
            "casemate-jail",
            "casemate-container",
            "casemate-watch",
            "casemate-engine",
        ],
    ),
];

#[test]
fn every_arrow_is_in_the_table() {
    let metadata = MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../../Cargo.toml"))
        .no_deps()
        .exec()
        .unwrap();
    let table: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let mut wrong = Vec::new();
    for package in &metadata.packages {
        let name = package.name.as_str();
        let Some(allowed) = table.get(name) else {
            wrong.push(format!("{name} is not in the table"));
            continue;
        };
        let ours = package
            .dependencies
            .iter()
            .filter(|dep| dep.name.starts_with("casemate"));
        for dependency in ours.filter(|dep| dep.kind == DependencyKind::Normal) {
            if !allowed.contains(&dependency.name.as_str()) {
                wrong.push(format!("{name} -> {}", dependency.name));
            }
        }
    }
    assert_eq!(metadata.packages.len(), ARROWS.len());
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// Unsafe code is where the table of trust says, and nowhere else.
#[test]
fn unsafe_is_fenced() {
    let crates = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    for (package, _) in ARROWS {
        let folder = package.strip_prefix("casemate-").unwrap_or(package);
        let root = ["lib.rs", "main.rs"]
            .iter()
            .find_map(|name| std::fs::read_to_string(format!("{crates}/{folder}/src/{name}")).ok())
            .unwrap();
        let expected = match folder {
            "linux" => "",
            "wasm" => "#![deny(unsafe_code)]",
            _ => "#![forbid(unsafe_code)]",
        };
        assert!(root.contains(expected), "{folder} does not say {expected}");
    }
}
