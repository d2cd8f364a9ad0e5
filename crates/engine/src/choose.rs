//! From what a program needs and what the backends offer to a place, with reasons. Pure.

use casemate_backend::contract::{Lost, Offer, Usable};
use casemate_model::guarantee::{Guarantee, Guarantees};
use casemate_model::limit::Limit;
use casemate_model::manifest::{Certainty, Fact};
use casemate_model::outcome::Placement;
use casemate_model::policy::Attacked;
use casemate_screen::Cleared;
use thiserror::Error;

use crate::attacked::{Record, Records};
use crate::policies;

/// What one backend lacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lack {
    /// The backend.
    pub backend: String,
    /// Why not.
    pub why: String,
}

/// No backend fits.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("no backend fits: {}", describe(lacks))]
pub struct NoPlace {
    /// What each one lacked.
    pub lacks: Vec<Lack>,
}

fn describe(lacks: &[Lack]) -> String {
    if lacks.is_empty() {
        return "there is none".to_owned();
    }
    let each: Vec<String> = lacks
        .iter()
        .map(|lack| format!("{}: {}", lack.backend, lack.why))
        .collect();
    each.join("; ")
}

/// The walls a cleared job must have: its policy's, the caller's and those that screening asks for.
pub fn needs(cleared: &Cleared) -> Guarantees {
    let job = cleared.job();
    job.policy
        .require
        .union(&job.demand.guarantees)
        .union(&cleared.screening().verdict.guarantees())
}

/// The cheapest backend whose offer covers what the job needs. What the last attack on it showed comes
/// before the price, and one that let an attack through is not taken unless it is asked for by name.
///
/// # Errors
/// [`NoPlace`] with what each backend lacked.
pub fn choose(
    cleared: &Cleared,
    offers: &[Offer],
    records: &Records,
) -> Result<Placement, NoPlace> {
    let asked = needs(cleared);
    let record = |offer: &Offer| Record::of(records, &offer.backend);
    let mut lacks = Vec::new();
    let mut fitting = Vec::new();
    for offer in offers {
        let why = lack(cleared, &asked, offer);
        match why.or_else(|| not_attacked(cleared, &record(offer), &offer.backend)) {
            None => fitting.push(offer),
            Some(why) => lacks.push(Lack {
                backend: offer.backend.clone(),
                why,
            }),
        }
    }
    let best = fitting.iter().min_by_key(|offer| {
        let attacked = record(offer).rank();
        (unmet(cleared, offer).len(), attacked, offer.cost)
    });
    match best {
        Some(offer) => {
            let mut reasons = vec![format!("covers the {} walls asked for", asked.len())];
            match &cleared.job().demand.backend {
                Some(_) => reasons.push("asked for by name".to_owned()),
                None if fitting.len() > 1 => reasons.push("the cheapest that does".to_owned()),
                None => reasons.push("the only one that does".to_owned()),
            }
            reasons.push(record(offer).describe());
            let others = fitting
                .iter()
                .filter(|other| other.backend != offer.backend);
            reasons.extend(others.flat_map(|other| {
                let without = unmet(cleared, other).into_iter().map(str::to_owned);
                let passed_over =
                    other.cost < offer.cost && record(other).rank() > record(offer).rank();
                let attacked = passed_over.then(|| record(other).describe());
                let why = without.chain(attacked);
                why.map(|why| format!("not {}: {why}", other.backend))
                    .collect::<Vec<_>>()
            }));
            reasons.extend(
                lacks
                    .iter()
                    .map(|lack| format!("not {}: {}", lack.backend, lack.why)),
            );
            Ok(Placement {
                backend: offer.backend.clone(),
                reasons,
            })
        }
        None => {
            if let Some(name) = &cleared.job().demand.backend
                && offers.iter().all(|offer| offer.backend != *name)
            {
                let why = "there is no such backend; `casemate doctor` lists them".to_owned();
                lacks = vec![Lack {
                    backend: name.clone(),
                    why,
                }];
            }
            Err(NoPlace { lacks })
        }
    }
}

/// What the program's text shows that it needs and a backend does not have. It is read from the program
/// and may be wrong, so it only orders the backends that fit.
fn unmet(cleared: &Cleared, offer: &Offer) -> Vec<&'static str> {
    let manifest = &cleared.screening().manifest;
    let needs = |facts: &[Fact]| facts.iter().any(|fact| fact.certainty >= Certainty::Likely);
    [
        (
            needs(&manifest.processes),
            Guarantee::ProcessesAbsent,
            "the program starts processes, and there are none",
        ),
        (
            needs(&manifest.native_code),
            Guarantee::NativeCodeAbsent,
            "the program loads native code, and none can be",
        ),
    ]
    .into_iter()
    .filter(|(needed, without, _)| *needed && offer.guarantees.contains(*without))
    .map(|(_, _, why)| why)
    .collect()
}

/// Why what is known of attacks rules a backend out.
fn not_attacked(cleared: &Cleared, record: &Record, backend: &str) -> Option<String> {
    let job = cleared.job();
    let required = job.policy.attacked.max(job.demand.attacked) == Attacked::Required;
    let by_name = job.demand.backend.is_some();
    if required && !job.demand.image.is_any() {
        let why = "a backend that stopped every attack is asked for, and attacks are run on the machine's own system, not on \
                   an image and not with a virtual environment; leave one of the two out";
        return Some(why.to_owned());
    }
    let again = format!("`casemate attack --backend {backend}` attacks it again");
    match record {
        Record::Stood { .. } => None,
        Record::None { .. } if !required => None,
        Record::None { .. } => Some(format!(
            "{}, and a backend that stopped every attack is asked for; {again}",
            record.describe()
        )),
        Record::Fell { .. } if by_name && !required => None,
        Record::Fell { .. } => Some(format!(
            "{}; mend the wall and {again}, or take another backend",
            record.describe()
        )),
    }
}

fn lack(cleared: &Cleared, asked: &Guarantees, offer: &Offer) -> Option<String> {
    let job = cleared.job();
    if let Some(name) = &job.demand.backend
        && *name != offer.backend
    {
        return Some(format!("{name} was asked for by name"));
    }
    if !offer.languages.contains(&job.program.language) {
        return Some(format!("it does not run {}", job.program.language));
    }
    // A guest of its own cannot be given another system, whether it is set up or not.
    let usable = match &offer.images {
        _ if job.demand.image.is_host() && job.demand.image.venv.is_none() => &offer.usable,
        Usable::Yes if job.demand.image.is_host() => &offer.usable,
        images => images,
    };
    match usable {
        Usable::Yes => {}
        Usable::AfterSetup { what } => {
            return Some(format!("not set up; run `casemate setup` ({what})"));
        }
        Usable::No { why, fix } => return Some(format!("{why}; {fix}")),
    }
    let missing = asked.missing_from(&offer.guarantees);
    if !missing.is_empty() {
        let way_out = match policies::fitting(&offer.guarantees) {
            // Only where the policy is what asks for it: what screening asks for, no preset takes away.
            Some(preset) if missing.common(&job.policy.require) == missing => format!(
                "; the policy requires it: take another backend, or a policy that does without, such as the preset \
                 {preset}"
            ),
            _ => String::new(),
        };
        return Some(format!(
            "cannot give {missing}{}{way_out}",
            why_lost(&missing, &offer.lost)
        ));
    }
    if let Limit::At(memory) = job.policy.limits.memory {
        if memory < offer.memory_floor {
            return Some(format!(
                "Python needs at least {} of memory; raise --memory",
                offer.memory_floor
            ));
        }
        if memory > offer.memory_ceiling {
            return Some(format!(
                "a guest can have at most {} of memory; lower --memory",
                offer.memory_ceiling
            ));
        }
    }
    None
}

/// Why what is missing cannot be had here, each reason once.
fn why_lost(missing: &Guarantees, lost: &Lost) -> String {
    let mut reasons: Vec<&str> = Vec::new();
    for why in missing.iter().filter_map(|guarantee| lost.get(&guarantee)) {
        if !reasons.contains(&why.as_str()) {
            reasons.push(why);
        }
    }
    if reasons.is_empty() {
        return String::new();
    }
    format!(" ({})", reasons.join("; "))
}

#[cfg(test)]
mod tests {
    use casemate_model::guarantee::Guarantee;
    use casemate_model::job::{Demand, ImageChoice, JobBuilder, Language, Program, RunId};
    use casemate_model::policy::{Policy, base_guarantees};
    use casemate_model::unit::ByteSize;
    use casemate_screen::{Mode, clear};

    use super::*;

    fn offer(backend: &str, cost: u32) -> Offer {
        Offer {
            backend: backend.into(),
            usable: Usable::Yes,
            images: Usable::Yes,
            languages: Language::ALL.to_vec(),
            guarantees: base_guarantees(),
            lost: Lost::new(),
            memory_floor: ByteSize::mib(4),
            memory_ceiling: ByteSize::mib(1024),
            cost,
            notes: Vec::new(),
        }
    }

    fn cleared(demand: Demand, memory: u64) -> Cleared {
        let program = Program {
            source: b"print(1)".to_vec(),
            name: "a.py".into(),
            language: Language::Python,
        };
        let mut policy = Policy::default();
        policy.limits.memory = Limit::At(ByteSize(memory));
        let job = JobBuilder::new(RunId::from_bits(1), program, policy)
            .demand(demand)
            .build()
            .unwrap();
        clear(job, Mode::Off).unwrap()
    }

    fn demand(backend: Option<&str>, guarantees: &[Guarantee]) -> Demand {
        Demand {
            guarantees: guarantees.iter().copied().collect(),
            backend: backend.map(str::to_owned),
            ..Demand::default()
        }
    }

    #[test]
    fn the_table_of_choices() {
        let (plain, mib) = (demand(None, &[]), 1 << 20);
        let mut unset = offer("wasm", 1);
        unset.usable = Usable::AfterSetup {
            what: "compile".into(),
        };
        let mut strong = offer("vm", 50);
        strong.guarantees.insert(Guarantee::SeparateKernel);
        let both = [offer("wasm", 1), strong.clone()];
        type Row<'a> = (&'a str, Demand, u64, &'a [Offer], Result<&'a str, &'a str>);
        let table: [Row<'_>; 8] = [
            ("cheapest", plain.clone(), 128 * mib, &both, Ok("wasm")),
            (
                "by name",
                demand(Some("vm"), &[]),
                128 * mib,
                &both,
                Ok("vm"),
            ),
            (
                "by guarantee",
                demand(None, &[Guarantee::SeparateKernel]),
                128 * mib,
                &both,
                Ok("vm"),
            ),
            (
                "no such name",
                demand(Some("moon"), &[]),
                128 * mib,
                &both,
                Err("no such backend"),
            ),
            (
                "not set up",
                plain.clone(),
                128 * mib,
                &[unset],
                Err("casemate setup"),
            ),
            (
                "too little memory",
                plain.clone(),
                1,
                &both,
                Err("at least 4 MiB"),
            ),
            (
                "too much memory",
                plain.clone(),
                4096 * mib,
                &both,
                Err("at most 1 GiB"),
            ),
            ("nothing there", plain, 128 * mib, &[], Err("there is none")),
        ];
        for (name, demand, memory, offers, expected) in table {
            let got = choose(&cleared(demand, memory), offers, &Records::new());
            match (got, expected) {
                (Ok(placement), Ok(backend)) => assert_eq!(placement.backend, backend, "{name}"),
                (Err(error), Err(part)) => {
                    assert!(error.to_string().contains(part), "{name}: {error}")
                }
                (got, _) => panic!("{name}: {got:?}"),
            }
        }
    }

    fn cleared_program(source: &str, require: Guarantees) -> Cleared {
        let program = Program {
            source: source.as_bytes().to_vec(),
            name: "a.py".into(),
            language: Language::Python,
        };
        let policy = Policy {
            require,
            ..Policy::default()
        };
        let job = JobBuilder::new(RunId::from_bits(1), program, policy)
            .build()
            .unwrap();
        clear(job, Mode::Enforce).unwrap()
    }

    fn wasm_and_jail() -> [Offer; 2] {
        let mut wasm = offer("wasm", 10);
        wasm.guarantees.insert(Guarantee::ProcessesAbsent);
        wasm.guarantees.insert(Guarantee::NativeCodeAbsent);
        let mut jail = offer("jail", 20);
        let coarse = [Guarantee::ClockCoarse].into_iter().collect();
        jail.guarantees = jail.guarantees.missing_from(&coarse);
        [wasm, jail]
    }

    #[test]
    fn a_program_that_needs_processes_goes_where_there_are_some() {
        let offers = wasm_and_jail();
        let native = policies::preset("native").unwrap().unwrap().require;
        let needs = "import subprocess\nsubprocess.run(['ls', '-l'])";
        let placed = |source: &str, require: &Guarantees| {
            choose(
                &cleared_program(source, require.clone()),
                &offers,
                &Records::new(),
            )
            .unwrap()
        };
        let placement = placed(needs, &native);
        assert_eq!(placement.backend, "jail");
        let said = placement.reasons.join("; ");
        assert!(
            said.contains("not wasm: the program starts processes"),
            "{said}"
        );
        assert_eq!(placed("print(1)", &native).backend, "wasm");
        // The coarse clock is a wall and weighs more than what the program's text shows.
        assert_eq!(placed(needs, &base_guarantees()).backend, "wasm");
    }

    #[test]
    fn languages_and_images_go_where_they_can_be_run() {
        let [mut wasm, mut jail] = wasm_and_jail();
        jail.guarantees = base_guarantees();
        wasm.languages = vec![Language::Python];
        wasm.images = Usable::No {
            why: "its guest is its own".into(),
            fix: "take the jail".into(),
        };
        // A machine whose own system cannot be used has images all the same.
        jail.usable = Usable::No {
            why: "no Python".into(),
            fix: "install it".into(),
        };
        let job = |language, image| {
            let program = Program {
                source: b"x=1".to_vec(),
                name: "x".into(),
                language,
            };
            let demand = Demand {
                image,
                ..Demand::default()
            };
            let job = JobBuilder::new(RunId::from_bits(1), program, Policy::default())
                .demand(demand)
                .build()
                .unwrap();
            clear(job, Mode::Off).unwrap()
        };
        let offers = [wasm, jail];
        let placed = |language, image: &ImageChoice| {
            choose(&job(language, image.clone()), &offers, &Records::new())
                .map(|placement| placement.backend)
        };
        let (host, own) = (ImageChoice::default(), ImageChoice::named("own"));
        let venv = ImageChoice {
            venv: Some("/venv".into()),
            ..ImageChoice::default()
        };
        assert_eq!(placed(Language::Python, &host).unwrap(), "wasm");
        assert_eq!(placed(Language::Python, &own).unwrap(), "jail");
        assert_eq!(placed(Language::Bash, &own).unwrap(), "jail");
        for (language, image, part) in [
            (Language::Bash, &host, "wasm: it does not run Bash"),
            (Language::Python, &venv, "wasm: its guest is its own"),
            (Language::Bash, &host, "jail: no Python"),
        ] {
            let error = placed(language, image).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_wall_that_cannot_be_given_is_named_with_a_way_out() {
        let mut cleared = cleared(demand(Some("jail"), &[]), 1 << 27);
        let error = choose(&cleared, &wasm_and_jail(), &Records::new())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("cannot give clock coarse") && error.contains("preset native"),
            "{error}"
        );
        let asked = demand(Some("jail"), &[Guarantee::SeparateKernel]);
        cleared = self::cleared(asked, 1 << 27);
        let error = choose(&cleared, &wasm_and_jail(), &Records::new())
            .unwrap_err()
            .to_string();
        assert!(!error.contains("preset"), "{error}");
    }

    #[test]
    fn what_a_machine_keeps_a_backend_from_is_said_once_with_why() {
        let mut jail = offer("jail", 1);
        let why = "permission denied; run as root";
        for guarantee in [Guarantee::MemoryCapped, Guarantee::TasksCapped] {
            jail.lost.insert(guarantee, why.to_owned());
        }
        // Not asked for, and so not mentioned.
        let other = "no core scheduling".to_owned();
        jail.lost.insert(Guarantee::CoreUnshared, other.clone());
        jail.guarantees = base_guarantees().missing_from(&jail.lost.keys().copied().collect());
        let cleared = cleared(demand(Some("jail"), &[]), 1 << 27);
        let error = choose(&cleared, &[jail], &Records::new()).unwrap_err();
        let error = error.to_string();
        let said = format!("cannot give memory capped, tasks capped ({why})");
        assert!(error.contains(&said) && !error.contains(&other), "{error}");
    }

    #[test]
    fn reasons_say_why_the_others_were_not_taken() {
        let placement = choose(
            &cleared(demand(Some("vm"), &[]), 1 << 27),
            &[offer("wasm", 1), offer("vm", 9)],
            &Records::new(),
        )
        .unwrap();
        assert!(
            placement
                .reasons
                .iter()
                .any(|reason| reason.contains("not wasm")),
            "{:?}",
            placement.reasons
        );
    }

    fn stood() -> Record {
        Record::Stood {
            on: "2026-11-25".into(),
            stopped: 70,
            promised: 70,
        }
    }

    fn fell() -> Record {
        Record::Fell {
            on: "2026-11-25".into(),
            attacks: vec!["netlink".into()],
        }
    }

    fn stale() -> Record {
        Record::None {
            why: "not attacked since the kernel changed".into(),
        }
    }

    fn records(wasm: Record, vm: Record) -> Records {
        [("wasm".to_owned(), wasm), ("vm".to_owned(), vm)].into()
    }

    #[test]
    fn what_stood_an_attack_goes_before_what_is_cheaper() {
        let offers = [offer("wasm", 1), offer("vm", 9)];
        let placed = |records: &Records| {
            choose(&cleared(demand(None, &[]), 1 << 27), &offers, records).unwrap()
        };
        let placement = placed(&records(stale(), stood()));
        assert_eq!(placement.backend, "vm");
        let said = placement.reasons.join("; ");
        assert!(
            said.contains("attacked on this machine on 2026-11-25: 70 of 70 stopped")
                && said.contains("not wasm: not attacked since the kernel changed"),
            "{said}"
        );
        // Both, or neither: the price decides.
        assert_eq!(placed(&records(stood(), stood())).backend, "wasm");
        let placement = placed(&records(stale(), stale()));
        assert_eq!(placement.backend, "wasm");
        assert!(
            placement
                .reasons
                .contains(&"not attacked since the kernel changed".to_owned())
        );
    }

    #[test]
    fn a_backend_with_a_wall_that_fell_is_taken_by_name_alone() {
        let offers = [offer("wasm", 1), offer("vm", 9)];
        let fallen = records(fell(), stale());
        let by = |name| choose(&cleared(demand(name, &[]), 1 << 27), &offers, &fallen);
        let placement = by(None).unwrap();
        assert_eq!(placement.backend, "vm");
        let said = placement.reasons.join("; ");
        assert!(
            said.contains("not wasm: attacked on this machine on 2026-11-25: netlink got through")
                && said.contains("casemate attack --backend wasm"),
            "{said}"
        );
        let named = by(Some("wasm")).unwrap();
        assert_eq!(named.backend, "wasm");
        assert!(
            named
                .reasons
                .iter()
                .any(|why| why.contains("netlink got through"))
        );
        let error = choose(
            &cleared(demand(None, &[]), 1 << 27),
            &[offer("wasm", 1)],
            &fallen,
        );
        assert!(error.unwrap_err().to_string().contains("netlink"));
    }

    #[test]
    fn where_it_is_required_nothing_else_will_do_by_name_or_not() {
        let offers = [offer("wasm", 1), offer("vm", 9)];
        let required = |name: Option<&str>| Demand {
            attacked: Attacked::Required,
            ..demand(name, &[])
        };
        let by =
            |name, records: &Records| choose(&cleared(required(name), 1 << 27), &offers, records);
        assert_eq!(by(None, &records(stale(), stood())).unwrap().backend, "vm");
        let error = by(Some("wasm"), &records(stale(), stood())).unwrap_err();
        let said = error.to_string();
        assert!(
            said.contains("since the kernel changed")
                && said.contains("casemate attack --backend wasm"),
            "{said}"
        );
        assert!(by(Some("wasm"), &records(fell(), stood())).is_err());
        // A policy asks in the same way.
        let policy = Policy {
            attacked: Attacked::Required,
            ..Policy::default()
        };
        let program = Program {
            source: b"print(1)".to_vec(),
            name: "a.py".into(),
            language: Language::Python,
        };
        let job = JobBuilder::new(RunId::from_bits(1), program, policy)
            .build()
            .unwrap();
        let cleared = clear(job, Mode::Off).unwrap();
        assert!(choose(&cleared, &offers, &Records::new()).is_err());
    }
}
