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
    for item in document.paths.paths.values_mut() {
        let operations = [
            &mut item.get,
            &mut item.put,
            &mut item.post,
            &mut item.delete,
        ];
        for operation in operations.into_iter().flatten() {
            operation.operation_id = name(operation);
        }
    }
    if let Some(components) = document.components.as_mut() {
        let key = ApiKeyValue::with_description(
            "X-API-Key",
            "a key of `casemate key create`; `Authorization: Bearer KEY` works too. On loopback none is needed until the first is made.",
        );
        components.add_security_scheme("key", SecurityScheme::ApiKey(ApiKey::Header(key)));
    }
    document
}

/// A handler's name is its module's own; with the tag before it there is one of each.
fn name(operation: &utoipa::openapi::path::Operation) -> Option<String> {
    let own = operation.operation_id.as_deref()?;
    let tag = operation.tags.as_ref()?.first()?;
    Some(format!("{tag}_{own}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    #[test]
    fn every_operation_has_a_name_of_its_own() {
        let document = serde_json::to_value(super::document()).unwrap();
        let paths = document["paths"].as_object().unwrap();
        let operations = paths.values().flat_map(|item| item.as_object().unwrap());
        let names: Vec<_> = operations
            .map(|(_, operation)| operation["operationId"].as_str().unwrap().to_owned())
            .collect();
        let different: BTreeSet<_> = names.iter().collect();
        assert_eq!(different.len(), names.len(), "{names:?}");
    }
}
