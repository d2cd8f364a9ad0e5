//! Pages of a list, the latest first.

use serde::Deserialize;
use utoipa::IntoParams;

use crate::error::ApiError;
use crate::store::After;

/// Which page of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
pub(crate) struct Page {
    /// The `next` of the page before.
    #[param(pattern = "^[0-9]{1,18}-[A-Za-z0-9_-]*$")]
    after: Option<String>,
    /// How many, 50 where nothing is said.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<i64>,
}

impl Page {
    /// Where it begins.
    ///
    /// # Errors
    /// Where it is no `next` of ours, or more or fewer are asked for than there may be.
    pub(crate) fn after(&self) -> Result<After, ApiError> {
        if !(1..=100).contains(&self.limit()) {
            return Err(ApiError::bad(
                format!("{} are no number of a page's", self.limit()),
                "ask for 1 to 100",
            ));
        }
        let Some(text) = &self.after else {
            return Ok(After {
                at_ms: i64::MAX,
                id: String::new(),
            });
        };
        let place = text.split_once('-').and_then(|(at, id)| {
            Some(After {
                at_ms: at.parse().ok()?,
                id: id.to_owned(),
            })
        });
        place.ok_or_else(|| {
            ApiError::bad(
                "`after` is no place in this list",
                "send the `next` of the page before, or none",
            )
        })
    }

    pub(crate) fn limit(&self) -> i64 {
        self.limit.unwrap_or(50)
    }

    /// The `after` of the next page, where this one is full.
    pub(crate) fn next<T>(&self, rows: &[T], place: fn(&T) -> (i64, &String)) -> Option<String> {
        let full = rows.len() as i64 == self.limit();
        let (at, id) = place(rows.last().filter(|_| full)?);
        Some(format!("{at}-{id}"))
    }
}
