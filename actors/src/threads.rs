//! The threads that actors live on, and those for what takes long. In a simulation there is one thread for everything.

#[cfg(not(feature = "simulation"))]
mod real {
    use actix::{Actor, Addr, Context};
    pub use actix_rt::{Arbiter, ArbiterHandle};
    pub use tokio::task::spawn_blocking;

    /// Starts an actor on an arbiter.
    pub fn start_on<A: Actor<Context = Context<A>>>(
        arbiter: &ArbiterHandle,
        make: impl FnOnce(&mut Context<A>) -> A + Send + 'static,
    ) -> Addr<A> {
        A::start_in_arbiter(arbiter, make)
    }
}

#[cfg(feature = "simulation")]
mod simulated {
    use actix::{Actor, Addr, Context};
    use tokio::task::JoinHandle;

    /// The one thread.
    pub struct Arbiter;

    /// The one thread.
    #[derive(Clone)]
    pub struct ArbiterHandle;

    impl Arbiter {
        /// The one thread.
        #[allow(clippy::new_without_default, reason = "as actix's")]
        pub fn new() -> Arbiter {
            Arbiter
        }

        /// The one thread.
        pub fn handle(&self) -> ArbiterHandle {
            ArbiterHandle
        }

        /// Runs it on the one thread.
        pub fn spawn(&self, work: impl Future<Output = ()> + 'static) {
            tokio::task::spawn_local(work);
        }

        /// It goes on for the others.
        pub fn stop(&self) {}
    }

    impl ArbiterHandle {
        /// Runs it here and now.
        pub fn spawn_fn(&self, run: impl FnOnce()) -> bool {
            run();
            true
        }
    }

    /// Starts an actor.
    pub fn start_on<A: Actor<Context = Context<A>>>(
        _arbiter: &ArbiterHandle,
        make: impl FnOnce(&mut Context<A>) -> A,
    ) -> Addr<A> {
        A::create(make)
    }

    /// Work that takes no time at all.
    pub fn spawn_blocking<T: Send + 'static>(
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        tokio::spawn(async move { work() })
    }
}

#[cfg(not(feature = "simulation"))]
pub use real::{Arbiter, ArbiterHandle, spawn_blocking, start_on};
#[cfg(feature = "simulation")]
pub use simulated::{Arbiter, ArbiterHandle, spawn_blocking, start_on};
