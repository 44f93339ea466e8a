//! The one-sided transport over the providers this machine has: endpoints by themselves, and clusters that use it.
//!
//! Without libfabric the tests say so and pass, unless `CATENA_RMA_TESTS=required`. `shm` wants `FI_SHM_DISABLE_CMA=1`.

mod cluster;
mod death;
mod endpoints;
mod support;
