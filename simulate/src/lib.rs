//! Simulations of Tagflow: a whole job, its restarts, its store and its readers, from a seed.
//!
//! The code that runs in production is the code that runs here. Only its edges are simulated: the
//! input log, the storage, the store and the clock. Who has the next turn, what is killed when and
//! what goes wrong follow from the seed, so a failure can be had again.

mod again;
pub mod checks;
pub mod clock;
pub mod disk;
mod ending;
pub mod events;
pub mod log;
pub mod outcome;
pub mod plan;
pub mod process;
mod promotions;
mod repairs;
pub mod rng;
pub mod seed;
pub mod seeds;
mod watch;
pub mod wire;
pub mod world;
