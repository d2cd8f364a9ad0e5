//! What goes on from a checkpoint, and what does not and says why.

use std::path::Path;
use std::time::{Duration, Instant};

use casemate_backend::contract::{Backend, Cancel};
use casemate_backend::plan::Plan;
use casemate_backend::suite;
use casemate_container::{Make, is_restored};
use casemate_model::guarantee::Guarantee;
use casemate_model::receipt::Receipt;

use crate::support::{Test, checkpoints, lacking, restored_from};

pub(crate) const TESTS: &[Test] = &[
    (
        "two_runs_share_no_random_state",
        two_runs_share_no_random_state,
    ),
    (
        "limits_cannot_be_raised_again",
        limits_cannot_be_raised_again,
    ),
    (
        "what_needs_no_library_or_a_layout_of_its_own_starts_cold",
        what_needs_no_library_or_a_layout_of_its_own_starts_cold,
    ),
    (
        "one_that_is_damaged_is_not_gone_on_from",
        one_that_is_damaged_is_not_gone_on_from,
    ),
    (
        "beside_the_runs_one_is_made_for_those_that_follow",
        beside_the_runs_one_is_made_for_those_that_follow,
    ),
];

fn plan(code: &str) -> Plan {
    let mut plan = suite::plan_without(code, &lacking());
    plan.loads = Some(["pandas".to_owned()].into());
    plan
}

/// What a program printed, and the receipt of its run.
fn run(backend: &dyn Backend, plan: &Plan) -> (String, Receipt) {
    let (sandbox, receipt) = backend.create(plan).unwrap();
    let mut said = Vec::new();
    let mut hear = |signal| {
        if let casemate_backend::contract::Signal::Stdout(bytes) = signal {
            said.extend_from_slice(&bytes);
        }
    };
    let finish = sandbox.run(plan, &mut hear, &Cancel::new()).unwrap();
    let said = String::from_utf8(said).unwrap();
    assert!(!said.is_empty(), "{finish:?}");
    (said, receipt)
}

fn began(receipt: &Receipt) -> &str {
    let mut walls = receipt.walls.iter();
    let layout = walls.find(|wall| wall.name == "memory_layout").unwrap();
    layout.got.as_deref().or(layout.missing.as_deref()).unwrap()
}

fn two_runs_share_no_random_state(backend: &dyn Backend) {
    let code = "import random, numpy, uuid, os, pandas\n\
        print(random.random(), numpy.random.rand(), numpy.random.default_rng().random(), uuid.uuid4(), os.urandom(4).hex())";
    let [one, other] = [(); 2].map(|()| {
        let (said, receipt) = run(backend, &plan(code));
        assert!(is_restored(&receipt), "{}", began(&receipt));
        said
    });
    let pairs = one.split_whitespace().zip(other.split_whitespace());
    let all: Vec<_> = pairs.collect();
    assert_eq!(all.len(), 5);
    assert!(all.iter().all(|(one, other)| one != other), "{all:?}");
}

fn limits_cannot_be_raised_again(backend: &dyn Backend) {
    let code = "import resource as r\n\
        for which in r.RLIMIT_NOFILE, r.RLIMIT_NPROC:\n    \
            most = r.getrlimit(which)\n    \
            try: r.setrlimit(which, (most[1] + 1, most[1] + 1)); print('raised')\n    \
            except (ValueError, OSError): print(*most)";
    let mut plan = plan(code);
    plan.limits.open_files = casemate_model::limit::Limit::At(77);
    plan.limits.tasks = casemate_model::limit::Limit::At(9);
    assert_eq!(run(backend, &plan).0, "77 77\n9 9\n");
}

fn what_needs_no_library_or_a_layout_of_its_own_starts_cold(backend: &dyn Backend) {
    let lasting = restored_from(checkpoints(), Make::Never);
    let with = plan("print(1)");
    assert!(is_restored(&run(&lasting, &with).1));
    let mut changed = [with.clone(), with.clone(), with];
    changed[0].loads = Some(["json".to_owned()].into());
    changed[1].loads = None;
    changed[2].asked.insert(Guarantee::LayoutFresh);
    for plan in &changed {
        let receipt = run(&lasting, plan).1;
        assert!(began(&receipt).starts_with("started cold"), "{receipt:?}");
        assert_eq!(receipt.satisfies(&plan.asked), Ok(()));
    }
    // What starts from nothing else does not start.
    let refused = backend.create(&changed[2]).err().unwrap().to_string();
    assert!(refused.contains("not from a checkpoint"), "{refused}");
}

fn one_that_is_damaged_is_not_gone_on_from(_: &dyn Backend) {
    for damage in [cut as fn(&Path), overwrite] {
        let folder = tempfile::tempdir().unwrap();
        copy(checkpoints(), folder.path());
        damage(folder.path());
        let (said, receipt) = run(
            &restored_from(folder.path(), Make::Never),
            &plan("print(1)"),
        );
        assert_eq!(said, "1\n");
        let began = began(&receipt);
        assert!(
            began.contains("its checkpoint could not be used"),
            "{began}"
        );
        // A process that makes them takes it away, and makes another.
        let makes = restored_from(folder.path(), Make::Beside);
        assert!(!is_restored(&run(&makes, &plan("print(1)")).1));
        assert_eq!(folders(folder.path()), Vec::<std::path::PathBuf>::new());
    }
}

fn beside_the_runs_one_is_made_for_those_that_follow(_: &dyn Backend) {
    let folder = tempfile::tempdir().unwrap();
    let backend = restored_from(folder.path(), Make::Beside);
    let plan = plan("print(1)");
    let (_, receipt) = run(&backend, &plan);
    assert!(began(&receipt).contains("is being made"), "{receipt:?}");
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_restored(&run(&backend, &plan).1) {
        assert!(Instant::now() < deadline, "none was made");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(folders(folder.path()).len(), 1);
}

fn folders(root: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(root).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.is_dir()).collect()
}

fn copy(from: &Path, to: &Path) {
    for folder in folders(from) {
        let at = to.join(folder.file_name().unwrap());
        std::fs::create_dir(&at).unwrap();
        std::fs::set_permissions(&at, std::fs::metadata(&folder).unwrap().permissions()).unwrap();
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, at.join(path.file_name().unwrap())).unwrap();
        }
    }
}

fn cut(root: &Path) {
    for folder in folders(root) {
        let pages = std::fs::File::options();
        let pages = pages.clone().write(true).open(folder.join("pages.img"));
        pages.unwrap().set_len(1 << 20).unwrap();
    }
}

fn overwrite(root: &Path) {
    for folder in folders(root) {
        std::fs::write(folder.join("checkpoint.img"), [b'x'; 4096]).unwrap();
    }
}
