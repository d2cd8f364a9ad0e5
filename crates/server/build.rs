//! Puts the built console into the server, where it has been built.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let here = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let out = env::var_os("OUT_DIR").map(PathBuf::from);
    let (Some(here), Some(out)) = (here, out) else {
        return Err(io::Error::other("cargo names no folders"));
    };
    let built = here.join("../../console/dist");
    // Cargo runs this again at every build where what it is to watch does not exist.
    fs::create_dir_all(&built).ok();
    println!("cargo::rerun-if-changed={}", built.display());
    println!("cargo::rerun-if-changed=build.rs");
    let mut files = Vec::new();
    if built.join("index.html").exists() {
        files = list(&built, "")?;
        files.sort();
    }
    fs::write(out.join("console.rs"), table(&built, &files))
}

/// Files below a folder, by their path in it.
fn list(folder: &Path, prefix: &str) -> io::Result<Vec<String>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            files.extend(list(&entry.path(), &format!("{name}/"))?);
        } else {
            files.push(name);
        }
    }
    Ok(files)
}

fn table(built: &Path, files: &[String]) -> String {
    let mut text = String::from("static FILES: &[(&str, &[u8])] = &[\n");
    for name in files {
        let path = built.join(name);
        // Writing to a String cannot fail.
        writeln!(text, "    ({name:?}, include_bytes!({path:?})),").ok();
    }
    text.push_str("];\n");
    text
}
