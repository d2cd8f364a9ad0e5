//! Sandboxes with a life: the same walls as a run's, held against the same policy.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use casemate_backend::contract::CreateError;
use casemate_backend::plan::{Guest, Plan, PlannedFile};
use casemate_backend::session::{Session, Sessions};
use casemate_model::job::{ImageChoice, Language, TenantId};
use casemate_model::policy::{Attacked, Policy, ScreenMode};
use casemate_model::receipt::Receipt;

use crate::sha256_hex;

/// A sandbox that is to be opened.
#[derive(Debug)]
pub struct Opening {
    /// Its name.
    pub id: String,
    /// Whom it belongs to.
    pub tenant: TenantId,
    /// Environment variables of everything in it.
    pub env: BTreeMap<String, String>,
    /// Its ceilings and the walls it must have.
    pub policy: Policy,
    /// The system that it is shown.
    pub image: ImageChoice,
    /// Whether an interpreter is to be ready for the first cell.
    pub warm: bool,
    /// A folder whose files are in it from the beginning.
    pub files: Option<OwnedFd>,
}

/// The plan of a sandbox without a program. Pure.
pub fn session_plan(opening: &Opening) -> Plan {
    let source: Arc<[u8]> = Arc::from([]);
    Plan {
        run: opening.id.clone(),
        tenant: opening.tenant.clone(),
        program: PlannedFile {
            path: "/work/main.py".to_owned(),
            sha256: sha256_hex(&source),
            bytes: source,
        },
        guest: Guest::new(Language::default(), opening.image.clone()),
        loads: None,
        argv: vec!["main.py".to_owned()],
        env: opening.env.clone(),
        inputs: Vec::new(),
        stdin: Arc::from([]),
        limits: opening.policy.limits.clone(),
        clock_granularity: opening.policy.clock_granularity.0,
        asked: opening.policy.require.clone(),
    }
}

/// Opens a sandbox. With a gap in its receipt it is gone again before anybody can speak to it.
///
/// # Errors
/// Why there is none.
pub fn open(
    backend: &dyn Sessions,
    opening: &Opening,
) -> Result<(Box<dyn Session>, Receipt), CreateError> {
    if opening.policy.attacked == Attacked::Required {
        return Err(CreateError::Unusable {
            why: "the policy asks for walls that were attacked on this machine, and those of a sandbox that lives on never were"
                .to_owned(),
            fix: "use runs, or a policy that does not ask for that".to_owned(),
        });
    }
    let plan = session_plan(opening);
    if opening.policy.screen != ScreenMode::Off {
        return Err(CreateError::Unusable {
            why: "the policy asks that programs are screened, and what runs in a sandbox that lives on is seen by nobody before it runs"
                .to_owned(),
            fix: "use runs, or a policy that says screen = \"off\", such as the preset session".to_owned(),
        });
    }
    let (session, receipt) = backend.open(&plan, opening.warm, opening.files.as_ref())?;
    match receipt.satisfies(&plan.asked) {
        Ok(()) => Ok((session, receipt)),
        Err(gap) => Err(CreateError::Unusable {
            why: gap.to_string(),
            fix: "`casemate doctor` says what this machine lacks".to_owned(),
        }),
    }
}
