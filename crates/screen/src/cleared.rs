//! The proof that screening ran.

use casemate_model::job::Job;
use casemate_model::screening::{Screening, Verdict};

use crate::{Mode, Preset, ScreenConfig, Source, screen};

/// A job that went through screening. Only this crate makes one, so no later stage can be reached
/// around it.
///
/// ```compile_fail,E0451
/// fn forge(job: casemate_model::job::Job) -> casemate_screen::Cleared {
///     casemate_screen::Cleared { job, screening: casemate_model::screening::Screening::skipped() }
/// }
/// ```
///
/// Nor is there a way around the field names:
///
/// ```compile_fail,E0599
/// fn forge(job: casemate_model::job::Job) -> casemate_screen::Cleared {
///     casemate_screen::Cleared::new(job, casemate_model::screening::Screening::skipped())
/// }
/// ```
#[derive(Debug)]
pub struct Cleared {
    job: Job,
    screening: Screening,
}

impl Cleared {
    /// The job.
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// What screening said about it.
    pub fn screening(&self) -> &Screening {
        &self.screening
    }

    /// Both, for the stage that settles the outcome.
    pub fn into_parts(self) -> (Job, Screening) {
        (self.job, self.screening)
    }
}

/// Screens a job with the size bound of its own policy, and with the actions of the preset that the
/// policy is named after; those of `data-analysis` when it has another name.
///
/// # Errors
/// The job and its screening, when the mode is [`Mode::Enforce`] and the verdict is a refusal.
/// [`Mode::Warn`] keeps the screening and clears; [`Mode::Off`] does not look, and the screening says
/// that it was skipped.
pub fn clear(job: Job, mode: Mode) -> Result<Cleared, Box<(Job, Screening)>> {
    let name = job.policy.name.clone();
    let max_bytes = usize::try_from(job.policy.source.0).unwrap_or(usize::MAX);
    clear_with(
        job,
        mode,
        &ScreenConfig {
            max_bytes,
            preset: Preset::named(&name).unwrap_or_default(),
            ..ScreenConfig::default()
        },
    )
}

/// [`clear`] with bounds of the caller's.
///
/// # Errors
/// Those of [`clear`].
pub fn clear_with(
    job: Job,
    mode: Mode,
    config: &ScreenConfig,
) -> Result<Cleared, Box<(Job, Screening)>> {
    if mode == Mode::Off {
        return Ok(Cleared {
            job,
            screening: Screening::skipped(),
        });
    }
    let program = &job.program;
    let source = Source {
        bytes: &program.source,
        language: program.language,
        name: &program.name,
    };
    let screening = screen(&source, config);
    if mode == Mode::Enforce && screening.verdict == Verdict::Refuse {
        return Err(Box::new((job, screening)));
    }
    Ok(Cleared { job, screening })
}

#[cfg(test)]
mod tests {
    use casemate_model::job::{JobBuilder, Language, Program, RunId};
    use casemate_model::policy::Policy;
    use casemate_model::unit::ByteSize;

    use super::*;

    fn job(source: &str, policy: Policy) -> Job {
        let program = Program {
            source: source.into(),
            name: "a.py".into(),
            language: Language::Python,
        };
        JobBuilder::new(RunId::from_bits(1), program, policy)
            .build()
            .unwrap()
    }

    const BAD: &str = "open('/etc/shadow').read()";

    #[test]
    fn enforcing_refuses_and_gives_the_job_back() {
        let (job, screening) = *clear(job(BAD, Policy::default()), Mode::Enforce).unwrap_err();
        assert_eq!(job.program.source, BAD.as_bytes());
        assert_eq!(screening.verdict, Verdict::Refuse);
        assert!(screening.refusals().count() > 0);
    }

    #[test]
    fn warning_keeps_the_verdict_and_clears() {
        let cleared = clear(job(BAD, Policy::default()), Mode::Warn).unwrap();
        assert_eq!(cleared.screening().verdict, Verdict::Refuse);
        assert!(!cleared.screening().skipped);
    }

    #[test]
    fn off_says_that_it_did_not_look() {
        let (job, screening) = clear(job(BAD, Policy::default()), Mode::Off)
            .unwrap()
            .into_parts();
        assert!(screening.skipped && screening.findings.is_empty());
        assert_eq!(job.program.name, "a.py");
    }

    #[test]
    fn the_size_bound_is_the_policys() {
        let policy = Policy {
            source: ByteSize(4),
            ..Policy::default()
        };
        assert!(clear(job("x=1\n", policy.clone()), Mode::Enforce).is_ok());
        assert!(clear(job("x=12\n", policy), Mode::Enforce).is_err());
    }
}
