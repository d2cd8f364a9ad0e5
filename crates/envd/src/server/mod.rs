//! The server's side of the protocol, as far as it is the same whatever lies behind it: the agent of a Linux sandbox,
//! or a guest that has no system of its own.

pub mod gunzip;
pub mod http;
pub mod lines;
pub mod paths;
pub mod query;
pub mod rpc;
pub mod serve;
pub mod shown;
pub mod upload;
