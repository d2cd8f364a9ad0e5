//! The oracle itself: it must see harm where there is some, and believe no wall without its sign.

use casemate_engine::{Refusal, refuse};
use casemate_model::guarantee::Guarantees;
use casemate_model::job::RunId;
use casemate_model::limit::Limits;
use casemate_model::receipt::{Need, Receipt, Wall};
use casemate_model::screening::Screening;

use super::*;

const SECRET: &str = "canary-0123";

fn outcome(ending: Ending, events: Vec<What>) -> Outcome {
    let refusal = Refusal {
        by: "walls",
        reason: String::new(),
        hint: None,
    };
    let id = RunId::from_bits(0);
    let place = (None, None);
    let blank = refuse(
        id,
        Screening::skipped(),
        Limits::default(),
        Guarantees::none(),
        place,
        refusal,
    );
    let event = |what| Event {
        at_us: 0,
        witness: Witness::Host,
        what,
    };
    let wall = |name: &str| Wall::standing(name, Need::Required, "", "", Guarantees::none());
    Outcome {
        ending,
        events: events.into_iter().map(event).collect(),
        receipt: Some(Receipt {
            backend: "b".into(),
            guest: "g".into(),
            walls: vec![wall("wasi_files"), wall("limit_memory")],
        }),
        ..blank
    }
}

fn untouched() -> Seen {
    Seen {
        sandboxed: true,
        secret: SECRET.into(),
        output: b"begun\n".to_vec(),
        stage: Inspection {
            ledger_intact: true,
            input_intact: true,
            ..Inspection::default()
        },
        ..Seen::default()
    }
}

fn missing() -> What {
    What::Missing {
        path: "/etc/shadow".into(),
    }
}

const EXITED: Ending = Ending::Exited { code: 1 };

#[test]
fn an_attack_is_stopped_only_with_its_wall_and_its_sign() {
    let verdict = |wall: &str, ending, events| {
        let outcome = outcome(ending, events);
        judge(
            wall,
            &[Harm::Leaked],
            Sign::Event("missing"),
            &untouched(),
            &outcome,
            None,
        )
    };
    let by = "event missing".to_owned();
    assert_eq!(
        verdict("wasi_files", EXITED, vec![missing()]),
        Held::Stopped { by }
    );
    assert!(matches!(
        verdict("wasi_files", EXITED, vec![]),
        Held::Unproven { .. }
    ));
    assert!(matches!(
        verdict("moat", EXITED, vec![missing()]),
        Held::Unproven { .. }
    ));
    for ending in [Ending::Cancelled, Ending::Signalled { signal: 11 }] {
        assert!(matches!(
            verdict("wasi_files", ending, vec![missing()]),
            Held::NotRun { .. }
        ));
    }
}

#[test]
fn harm_outweighs_every_sign_and_an_attack_that_said_nothing_did_not_run() {
    let fine = outcome(EXITED, vec![missing()]);
    let check = |seen: &Seen| {
        let sign = Sign::Event("missing");
        judge("wasi_files", &[Harm::Leaked], sign, seen, &fine, None)
    };
    let mut seen = untouched();
    seen.output.extend(SECRET.bytes());
    assert!(matches!(check(&seen), Held::GotThrough { .. }));
    let mut seen = untouched();
    seen.stage.heard.bytes = SECRET.into();
    assert!(matches!(check(&seen), Held::GotThrough { .. }));
    let silent = Seen {
        output: Vec::new(),
        ..untouched()
    };
    assert!(matches!(check(&silent), Held::NotRun { .. }));
}

#[test]
fn a_limit_is_reached_only_where_the_ending_and_the_host_agree() {
    let limit = LimitKind::Memory;
    let over = Ending::Over {
        limit,
        allowed: 1,
        seen: 2,
    };
    let reached = What::LimitReached {
        limit,
        allowed: 1,
        seen: 2,
    };
    let sign = Sign::Limit(limit);
    assert!(sign.is_in(&outcome(over.clone(), vec![reached.clone()]), None));
    assert!(!sign.is_in(&outcome(EXITED, vec![reached.clone()]), None));
    assert!(!sign.is_in(&outcome(over.clone(), vec![]), None));
    assert!(
        !Sign::Limit(LimitKind::CpuTime).is_in(&outcome(over.clone(), vec![reached.clone()]), None)
    );
    let mut told = outcome(over, vec![reached]);
    told.events[0].witness = Witness::Guest;
    assert!(!sign.is_in(&told, None), "the guest's word is no sign");
}

#[test]
fn what_is_forged_counts_only_in_the_hosts_own_voice() {
    let denied = |wall: &str| What::Denied {
        wall: wall.into(),
        call: String::new(),
        detail: String::new(),
        error: String::new(),
    };
    assert!(is_forged(&outcome(EXITED, vec![denied("forged")])));
    assert!(!is_forged(&outcome(
        EXITED,
        vec![denied(DRIVER_MESSAGES), missing()]
    )));
    let mut told = outcome(EXITED, vec![denied("forged")]);
    told.events[0].witness = Witness::Guest;
    assert!(!is_forged(&told));
    if let Some(receipt) = &mut told.receipt {
        receipt.walls[0].name = "forged".into();
    }
    assert!(is_forged(&told));
}

/// Each harm with a run that shows it; the untouched one must show none.
#[test]
fn every_harm_is_seen_where_it_is_and_nowhere_else() {
    type Do = fn(&mut Seen);
    let second = Duration::from_secs(1);
    let table: [(Harm, Do); 20] = [
        (Harm::LedgerChanged, |seen| seen.stage.ledger_intact = false),
        (Harm::InputChanged, |seen| seen.stage.input_intact = false),
        (Harm::Leaked, |seen| seen.output.extend(SECRET.bytes())),
        (Harm::Reached, |seen| seen.stage.heard.datagrams = 1),
        (Harm::EngineReached, |seen| seen.stage.heard.local = 1),
        (Harm::Started, |seen| seen.stage.started = true),
        (Harm::Killed, |seen| seen.stage.victim_died = true),
        (Harm::Forged, |seen| seen.forged = true),
        (Harm::Crashed, |seen| seen.signal = Some(11)),
        (Harm::Memory(9), |seen| seen.holding.memory = 9),
        (Harm::Cpu(second), |seen| seen.cpu = Duration::from_secs(1)),
        (Harm::Wall(second), |seen| {
            seen.wall = Duration::from_secs(1)
        }),
        (Harm::DiskBytes(9), |seen| seen.disk.0 = 9),
        (Harm::DiskFiles(9), |seen| seen.disk.1 = 9),
        (Harm::Descriptors(9), |seen| seen.holding.descriptors = 9),
        (Harm::Output(9), |seen| seen.output_bytes = 9),
        (Harm::HandedBack(9), |seen| seen.handed_back = 9),
        (Harm::Tasks(9), |seen| seen.holding.tasks = 9),
        (Harm::FineClock(second), |seen| {
            seen.output.extend(b"finest_tick_ns=999999999\n");
        }),
        (Harm::Uptime, |seen| {
            let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
            seen.output
                .extend(format!("uptime_s={}.5\n", now.tv_sec).bytes());
        }),
    ];
    for (index, (harm, act)) in table.iter().enumerate() {
        assert_eq!(harm.seen(&untouched()), None, "{harm:?}");
        let mut seen = untouched();
        act(&mut seen);
        for (other, (harm, _)) in table.iter().enumerate() {
            assert_eq!(harm.seen(&seen).is_some(), index == other, "{harm:?}");
        }
    }
}

#[test]
fn the_hosts_own_account_files_are_secrets_of_a_sandboxed_run_alone() {
    let line = own_secrets().into_iter().next().unwrap();
    let mut seen = untouched();
    seen.output.extend(&line);
    assert!(Harm::Leaked.seen(&seen).is_some());
    seen.sandboxed = false;
    assert_eq!(Harm::Leaked.seen(&seen), None);
}
