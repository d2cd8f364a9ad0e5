//! The description of the API, made from the code.

use utoipa::OpenApi;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, SecurityScheme};

use crate::routes;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Casemate",
        description = "Runs code that nobody trusts, and says which walls stood around it."
    ),
    components(schemas(crate::error::ErrorBody))
)]
struct Base;

/// The API's description, OpenAPI 3.1.
pub fn document() -> utoipa::openapi::OpenApi {
    let (_, mut document) = utoipa_axum::router::OpenApiRouter::with_openapi(Base::openapi())
        .merge(routes::router())
        .split_for_parts();
    if let Some(components) = document.components.as_mut() {
        let key = ApiKeyValue::with_description(
            "X-API-Key",
            "a key of `casemate key create`; `Authorization: Bearer KEY` works too. On loopback none is needed until the first is made.",
        );
        components.add_security_scheme("key", SecurityScheme::ApiKey(ApiKey::Header(key)));
    }
    document
}
