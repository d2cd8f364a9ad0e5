//! The paths under `/v1`, and those about the server itself.

mod about;
mod attacks;
mod audit;
mod files;
mod keys;
mod page;
mod runs;
mod sandboxes;
pub(crate) mod scans;

use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::state::State;
use sandboxes::{cells, commands, files as inside};

/// Every path, with its description.
pub(crate) fn router() -> OpenApiRouter<State> {
    OpenApiRouter::new()
        .routes(routes!(about::healthz))
        .routes(routes!(about::readyz))
        .routes(routes!(about::metrics))
        .routes(routes!(about::policies))
        .routes(routes!(about::backends))
        .routes(routes!(attacks::list))
        .routes(routes!(keys::list))
        .routes(routes!(runs::create, runs::list))
        .routes(routes!(runs::get, runs::delete))
        .routes(routes!(runs::cancel))
        .routes(routes!(runs::receipt))
        .routes(routes!(runs::signed_receipt))
        .routes(routes!(runs::events))
        .routes(routes!(runs::receipt_key))
        .routes(routes!(runs::artifact))
        .routes(routes!(scans::scan))
        .routes(routes!(audit::list))
        .routes(routes!(audit::head))
        .routes(routes!(files::list))
        .routes(routes!(files::put, files::delete))
        .routes(routes!(sandboxes::create, sandboxes::list))
        .routes(routes!(sandboxes::get, sandboxes::delete))
        .routes(routes!(sandboxes::timeout))
        .routes(routes!(sandboxes::pause))
        .routes(routes!(sandboxes::resume))
        .routes(routes!(sandboxes::fork))
        .routes(routes!(sandboxes::receipt))
        .routes(routes!(sandboxes::signed_receipt))
        .routes(routes!(sandboxes::metrics))
        .routes(routes!(cells::run))
        .routes(routes!(cells::contexts, cells::create_context))
        .routes(routes!(cells::remove_context))
        .routes(routes!(cells::restart_context))
        .routes(routes!(commands::run, commands::list))
        .routes(routes!(commands::kill))
        .routes(routes!(inside::read, inside::write, inside::remove))
        .routes(routes!(inside::folder, inside::make_folder))
}
