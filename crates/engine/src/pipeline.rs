//! The pipeline, to be read from top to bottom.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use casemate_backend::contract::{Backend, Cancel, CreateError, Offer, Sandbox, Signal};
use casemate_backend::plan::Plan;
use casemate_model::guarantee::Guarantees;
use casemate_model::job::Job;
use casemate_model::outcome::{Exit, Outcome, Placement, Trace, Usage};
use casemate_model::receipt::Receipt;
use casemate_model::screening::Screening;
use casemate_screen::{Cleared, clear};
use casemate_watch::{AlertRules, Watch};

use crate::attacked::{Record, Records};
use crate::choose::{NoPlace, choose, needs};
use crate::plan::plan;
use crate::settle::{Refusal, Settled, refuse, settle};

/// Runs jobs. Holds backends without knowing which they are.
pub struct Engine {
    backends: Vec<Arc<dyn Backend>>,
    alerts: AlertRules,
    records: Records,
    /// What those that are quick to ask offered, and when.
    lately: Mutex<Option<(Arc<[Offer]>, Instant)>>,
}

/// How long an offer is believed. It only decides where a job goes: whether the walls stand is found out by each
/// sandbox anew.
const BELIEVED: Duration = Duration::from_secs(1);

/// A job that has been screened, placed and planned, and has not run.
#[derive(Debug)]
pub struct Prepared {
    cleared: Cleared,
    /// Where it will run and why.
    pub placement: Placement,
    /// What will be built.
    pub plan: Plan,
}

impl Prepared {
    /// What screening said.
    pub fn screening(&self) -> &Screening {
        self.cleared.screening()
    }

    fn refuse(self, receipt: Option<Receipt>, refusal: Refusal) -> Outcome {
        let (job, screening) = self.cleared.into_parts();
        let place = (Some(self.placement), receipt);
        refuse(
            job.id,
            screening,
            job.policy.limits,
            self.plan.asked,
            place,
            refusal,
        )
    }
}

impl Engine {
    /// An engine over these backends.
    pub fn new(backends: Vec<Arc<dyn Backend>>, alerts: AlertRules) -> Self {
        Self {
            backends,
            alerts,
            records: Records::new(),
            lately: Mutex::default(),
        }
    }

    /// The same, with what is known of attacks on its backends.
    #[must_use]
    pub fn attacked(self, records: Records) -> Self {
        Self { records, ..self }
    }

    /// What is known of attacks on a backend.
    pub fn record(&self, backend: &str) -> Record {
        Record::of(&self.records, backend)
    }

    /// The backend of that name.
    pub fn backend(&self, name: &str) -> Option<Arc<dyn Backend>> {
        let mut all = self.backends.iter();
        all.find(|backend| backend.name() == name).cloned()
    }

    /// What each backend offers on this machine.
    pub fn offers(&self) -> Vec<Offer> {
        self.backends
            .iter()
            .map(|backend| backend.probe())
            .collect()
    }

    /// Runs a job: the product.
    pub fn run(&self, job: Job, listen: &mut dyn FnMut(&Signal), cancel: &Cancel) -> Outcome {
        let prepared = match self.prepare(job) {
            Ok(prepared) => prepared,
            Err(outcome) => return *outcome,
        };
        let (sandbox, receipt) = match self.create(&prepared) {
            Ok(made) => made,
            Err(refusal) => return prepared.refuse(None, refusal),
        };
        // Nothing of the guest has run yet. What is missing now stops the job.
        if let Err(gap) = receipt.satisfies(&prepared.plan.asked) {
            drop(sandbox);
            let hint = Some("`casemate doctor` says what this machine lacks".to_owned());
            return prepared.refuse(
                Some(receipt),
                Refusal {
                    by: "walls",
                    reason: gap.to_string(),
                    hint,
                },
            );
        }
        let trace = self.observe(sandbox, &prepared, receipt.granted(), listen, cancel);
        let (job, screening) = prepared.cleared.into_parts();
        settle(
            &prepared.plan,
            Settled {
                id: job.id,
                screening,
                placement: prepared.placement,
                receipt,
            },
            trace,
        )
    }

    /// The place for a job. Those that have to ask another program what they offer are asked only where they are
    /// named or no other will do; and all are asked anew before there is said to be none.
    fn place(&self, cleared: &Cleared) -> Result<Placement, NoPlace> {
        let named = cleared.job().demand.backend.as_deref();
        let named = named.and_then(|name| self.backend(name));
        let quick = self.quick_offers();
        let placed = match named.filter(|backend| backend.is_slow_to_probe()) {
            Some(slow) => {
                let offers = [&quick[..], &[slow.probe()]].concat();
                choose(cleared, &offers, &self.records)
            }
            None => choose(cleared, &quick, &self.records),
        };
        placed.or_else(|_| choose(cleared, &self.offers(), &self.records))
    }

    /// What those that are quick to ask offer, or did a moment ago.
    fn quick_offers(&self) -> Arc<[Offer]> {
        let mut lately = self.lately.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((offers, at)) = &*lately
            && at.elapsed() < BELIEVED
        {
            return Arc::clone(offers);
        }
        let quick = self
            .backends
            .iter()
            .filter(|backend| !backend.is_slow_to_probe());
        let offers: Arc<[Offer]> = quick.map(|backend| backend.probe()).collect();
        *lately = Some((Arc::clone(&offers), Instant::now()));
        offers
    }

    /// Screens, places and plans a job without running it.
    ///
    /// # Errors
    /// The outcome of a job that was refused on the way.
    pub fn prepare(&self, job: Job) -> Result<Prepared, Box<Outcome>> {
        let mode = job.policy.screen;
        let cleared =
            clear(job, mode).map_err(|refused| Box::new(refused_by_screening(*refused)))?;
        match self.place(&cleared) {
            Ok(placement) => {
                let plan = plan(&cleared);
                Ok(Prepared {
                    cleared,
                    placement,
                    plan,
                })
            }
            Err(no_place) => {
                let asked = needs(&cleared);
                let (job, screening) = cleared.into_parts();
                let hint = Some("`casemate doctor` says what each backend offers here".to_owned());
                let refusal = Refusal {
                    by: "placement",
                    reason: no_place.to_string(),
                    hint,
                };
                Err(Box::new(refuse(
                    job.id,
                    screening,
                    job.policy.limits,
                    asked,
                    (None, None),
                    refusal,
                )))
            }
        }
    }

    fn create(&self, prepared: &Prepared) -> Result<(Box<dyn Sandbox>, Receipt), Refusal> {
        let name = &prepared.placement.backend;
        let backend = self.backends.iter().find(|backend| backend.name() == name);
        let backend = backend.ok_or_else(|| Refusal {
            by: "placement",
            reason: format!("the backend {name} is gone"),
            hint: None,
        })?;
        backend.create(&prepared.plan).map_err(|error| match error {
            CreateError::Plan(reason) => Refusal {
                by: "plan",
                reason,
                hint: None,
            },
            other => Refusal {
                by: "walls",
                reason: other.to_string(),
                hint: None,
            },
        })
    }

    fn observe(
        &self,
        sandbox: Box<dyn Sandbox>,
        prepared: &Prepared,
        granted: Guarantees,
        listen: &mut dyn FnMut(&Signal),
        cancel: &Cancel,
    ) -> Trace {
        let mut watch = Watch::start(&prepared.placement.backend, granted);
        let mut sink = |signal: Signal| {
            listen(&signal);
            match signal {
                Signal::Stdout(bytes) => watch.stdout(&bytes),
                Signal::Stderr(bytes) => watch.stderr(&bytes),
                Signal::Event(event) => watch.event(event),
                Signal::Displayed(result) => watch.displayed(result),
                Signal::Error(error) => watch.error(error),
            }
        };
        match sandbox.run(&prepared.plan, &mut sink, cancel) {
            Ok(finish) => watch.finish(finish.exit, finish.usage, finish.artifacts, &self.alerts),
            Err(fault) => watch.finish(
                Exit::Fault(fault.0),
                Usage::default(),
                Vec::new(),
                &self.alerts,
            ),
        }
    }
}

fn refused_by_screening((job, screening): (Job, Screening)) -> Outcome {
    let first = screening.refusals().next();
    let reason = first.map_or_else(
        || "screening refused it".to_owned(),
        |finding| match finding.place {
            Some(place) => format!(
                "{} at line {}: {}",
                finding.rule, place.line, finding.message
            ),
            None => format!("{}: {}", finding.rule, finding.message),
        },
    );
    let hint = first.map(|finding| finding.better_way.clone());
    let refusal = Refusal {
        by: "screening",
        reason,
        hint,
    };
    refuse(
        job.id,
        screening,
        job.policy.limits,
        Guarantees::none(),
        (None, None),
        refusal,
    )
}
