//! The sockets that nodes and their clients talk over: tokio's; in a simulation, those of the simulated network.

#[cfg(not(feature = "simulation"))]
pub use tokio::net::{TcpListener, TcpStream, lookup_host};
#[cfg(feature = "simulation")]
pub use turmoil::net::{TcpListener, TcpStream, lookup_host};
