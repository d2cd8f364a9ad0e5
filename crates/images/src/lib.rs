//! Images: the systems that sandboxes show instead of the machine's own.
//!
//! An image is a folder of the user's own: `root`, the tree that a sandbox shows read-only; one folder with
//! our driver, made for the image's Python; and `image.json`, which says what it is. It appears under its name
//! in one rename when it is complete, and nothing in it is written again.
//!
//! [`Maker`] makes them; [`Images::get`] opens one; [`Systems::of`] opens what a program asks for, the machine's own system included.

#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")
)]

mod build;
mod digest;
mod error;
mod image;
mod make;
mod name;
mod pack;
mod pip;
mod pull;
mod store;
mod systems;
mod tree;
pub mod unpack;

pub use build::{PYTHON_DATA, Packages, Request};
pub use error::ImageError;
pub use image::{Image, ImageFile, Package, Python, Source};
pub use make::{Maker, Trial};
pub use name::ImageName;
pub use pull::Reference;
pub use store::{Images, Listed};
pub use systems::{Prepared, Systems};
pub use unpack::Bounds;
