//! Simulations of Tagflow: a whole job with its restarts, store and readers, from a seed.
//!
//! The code under test is the production code. Only its edges are simulated: the input log, the
//! disk, the store and the clock. Whose turn it is, what is killed and which faults strike follow
//! from the seed, so every failure can be repeated.
//!
//! `plan` makes the list of actions, and `run` carries it out on a `world`: `steps` has the actions
//! and turns, `repairs`, `redelivery` and `promotions` the requests, `watch` and `checks` the
//! checks, `ending` the end. `disk`, `process`, `log`, `wire` and `clock` are the simulated edges.

pub mod checks;
mod clock;
pub mod disk;
mod ending;
mod events;
mod log;
pub mod outcome;
pub mod plan;
mod process;
mod promotions;
mod redelivery;
mod repairs;
mod requests;
pub mod rng;
pub mod run;
pub mod seed;
pub mod seeds;
mod steps;
mod watch;
pub mod wire;
mod world;
