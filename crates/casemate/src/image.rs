//! `casemate image`: the systems that sandboxes show.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, ensure};
use casemate_backend::contract::Cancel;
use casemate_engine::Engine;
use casemate_images::{
    Bounds, ImageFile, ImageName, Images, Listed, Maker, PYTHON_DATA, Packages, Prepared,
    Reference, Request, Source, Systems, Trial,
};
use casemate_jail::JailBackend;
use casemate_model::job::{Demand, ImageChoice, JobBuilder, Language, Program, RunId};
use casemate_model::outcome::Outcome;
use casemate_model::policy::{Policy, ScreenMode};
use casemate_watch::AlertRules;
use serde_json::json;

use crate::cli::{ImageBuildArgs, ImageCommand, ImageMakeArgs};
use crate::progress::Bars;
use crate::text;

/// The program that is started to unpack and to try: this one.
const THIS: &str = "/proc/self/exe";

pub(crate) fn command(command: ImageCommand) -> anyhow::Result<i32> {
    match command {
        ImageCommand::Ls { json } => list(json),
        ImageCommand::Rm { names } => remove(&names),
        ImageCommand::Verify { name } => {
            let name = ImageName::new(&name)?;
            let file = Images::open()?.verify(&name)?;
            println!("{name} is as it was made: {}", file.digest);
            Ok(0)
        }
        ImageCommand::Import {
            name,
            archive,
            make,
        } => made(&make, |maker| {
            maker.import(&ImageName::new(&name)?, &archive)
        }),
        ImageCommand::Pull {
            reference,
            name,
            make,
        } => {
            let reference = Reference::new(&reference)?;
            let name = match name {
                Some(name) => ImageName::new(&name)?,
                None => reference
                    .name()
                    .context("say what it is to be called here with --name NAME")?,
            };
            made(&make, |maker| maker.pull(&name, &reference))
        }
        ImageCommand::Build(args) => build(&args),
    }
}

fn build(args: &ImageBuildArgs) -> anyhow::Result<i32> {
    let packages = match (&args.requirements, &args.packages) {
        (Some(file), _) => Packages::File(file.clone()),
        (None, Some(names)) => {
            let names = names.iter().filter(|name| *name != "none");
            Packages::Named(names.cloned().collect())
        }
        (None, None) => {
            ensure!(
                args.name == PYTHON_DATA,
                "say which Python packages {} is to have: --packages A,B or --requirements FILE, or --packages none; only \
                 {PYTHON_DATA} has a choice of its own",
                args.name
            );
            Packages::PythonData
        }
    };
    let request = Request {
        debian: args.debian.clone(),
        suite: args.suite.clone(),
        packages,
        fresh: args.fresh,
    };
    made(&args.make, |maker| {
        maker.build(&ImageName::new(&args.name)?, &request)
    })
}

/// Makes an image and says what it is.
fn made(
    args: &ImageMakeArgs,
    make: impl FnOnce(&Maker<'_>) -> Result<ImageFile, casemate_images::ImageError>,
) -> anyhow::Result<i32> {
    let images = Images::open()?;
    let bars = Bars::new();
    let mut bounds = Bounds::default();
    if let Some(size) = args.max_size {
        bounds.bytes = size.0;
    }
    let file = make(&Maker {
        images: &images,
        program: Path::new(THIS),
        trial: &InJail,
        progress: &bars,
        bounds,
        force: args.force,
    })?;
    print!("{}", text::plain(described(&file).as_bytes()));
    println!(
        "run a program on it: casemate run --policy native --image {} FILE",
        file.name
    );
    Ok(0)
}

/// Starts an image's interpreters in a jail.
struct InJail;

impl Trial for InJail {
    fn run(
        &self,
        prepared: &Prepared,
        language: Language,
        program: &str,
    ) -> Result<String, String> {
        let run = || -> anyhow::Result<Outcome> {
            let jail = JailBackend::new(Systems::only(prepared.clone()), THIS);
            let engine = Engine::new(vec![Arc::new(jail)], AlertRules::embedded()?);
            let policy = casemate_engine::policies::preset("native")?;
            let policy = Policy {
                // Our own program.
                screen: ScreenMode::Off,
                ..policy.context("the preset native is missing")?
            };
            let program = Program {
                source: program.as_bytes().to_vec(),
                name: language.default_file().to_owned(),
                language,
            };
            let job = JobBuilder::new(RunId::from_bits(0), program, policy).demand(Demand {
                // Whatever its name: there is one.
                image: ImageChoice::named("being-made"),
                ..Demand::default()
            });
            Ok(engine.run(job.build()?, &mut |_| {}, &Cancel::new()))
        };
        let outcome = run().map_err(|error| format!("{error:#}"))?;
        if outcome.ending.is_success() {
            return Ok(String::from_utf8_lossy(&outcome.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&outcome.stderr);
        let said = said.lines().next_back().unwrap_or_default();
        let trouble = crate::show::trouble(&outcome);
        Err(text::line(&format!("{} {said}", trouble.trim()), 400))
    }
}

fn remove(names: &[String]) -> anyhow::Result<i32> {
    let images = Images::open()?;
    for name in names {
        let name = ImageName::new(name)?;
        images.remove(&name)?;
        println!("removed {name}");
    }
    Ok(0)
}

fn list(as_json: bool) -> anyhow::Result<i32> {
    let images = Images::open()?.list()?;
    if as_json {
        let all: Vec<_> = images.iter().map(entry).collect();
        let value = json!({ "schema": "casemate.images/1", "images": all });
        println!("{}", serde_json::to_string_pretty(&value)?);
        return Ok(0);
    }
    println!("host: this machine's own system, which every program is shown that names no image");
    for Listed { name, image } in &images {
        match image {
            Ok(file) => print!("{}", text::plain(described(file).as_bytes())),
            Err(error) => println!("{name}: {}", text::plain(error.to_string().as_bytes())),
        }
    }
    if images.is_empty() {
        println!(
            "no images: `casemate image build {PYTHON_DATA}`, `casemate image pull REF` or `casemate image import NAME TAR` makes one"
        );
    }
    Ok(0)
}

fn entry(listed: &Listed) -> serde_json::Value {
    match &listed.image {
        Ok(file) => json!({ "name": listed.name, "usable": true, "image": file }),
        Err(error) => {
            let (why, fix) = error.parts();
            json!({ "name": listed.name, "usable": false, "why": why, "fix": fix })
        }
    }
}

/// An image in a few lines: what it runs, what it is made of, what was installed from where.
fn described(file: &ImageFile) -> String {
    let languages: Vec<String> = file
        .languages
        .keys()
        .map(|language| match (&file.python, language) {
            (Some(python), Language::Python) => format!("Python {}", python.version),
            _ => language.to_string(),
        })
        .collect();
    let source = match &file.source {
        Source::Debian { suite, packages } => {
            format!("Debian {suite}, {} packages", packages.len())
        }
        Source::Archive { file, digest } => format!("the archive {file} ({digest})"),
        Source::Registry { reference, digest } => format!("{reference} ({digest})"),
    };
    let mut text = format!(
        "{}: {}; {} MiB in {} entries; {}\n  from {source}\n",
        file.name,
        languages.join(", "),
        file.size_bytes >> 20,
        file.entries,
        file.digest,
    );
    let mut by_index = std::collections::BTreeMap::<&str, Vec<String>>::new();
    for package in &file.packages {
        let of = by_index.entry(&package.index).or_default();
        of.push(format!("{} {}", package.name, package.version));
    }
    for (index, packages) in by_index {
        text.push_str(&format!("  from {index}: {}\n", packages.join(", ")));
    }
    text
}
