//! The README and the pages under `docs/`, so that their examples are compiled and run as tests of the documentation.

#[cfg(feature = "aws")]
#[doc = include_str!("../README.md")]
mod readme {}

#[doc = include_str!("../docs/concepts.md")]
mod concepts {}

#[cfg(feature = "aws")]
#[doc = include_str!("../docs/inbox.md")]
mod inbox {}

#[doc = include_str!("../docs/flow-control.md")]
mod flow_control {}

#[doc = include_str!("../docs/dead-letters.md")]
mod dead_letters {}

#[doc = include_str!("../docs/drain.md")]
mod drain {}

#[doc = include_str!("../docs/fifo.md")]
mod fifo {}

#[doc = include_str!("../docs/inspecting.md")]
mod inspecting {}

#[doc = include_str!("../docs/handlers.md")]
mod handlers {}

#[doc = include_str!("../docs/producer.md")]
mod producer {}

#[doc = include_str!("../docs/testing.md")]
mod testing {}

#[doc = include_str!("../docs/performance.md")]
mod performance {}

#[cfg(feature = "ecs")]
#[doc = include_str!("../docs/scale-in.md")]
mod scale_in {}

#[doc = include_str!("../docs/settings.md")]
mod settings {}

#[doc = include_str!("../docs/setup.md")]
mod setup {}

#[cfg(all(feature = "aws", feature = "ecs", feature = "emf", feature = "health"))]
#[doc = include_str!("../docs/deploy.md")]
mod deploy {}

#[doc = include_str!("../docs/runbooks.md")]
mod runbooks {}

#[doc = include_str!("../docs/localstack.md")]
mod localstack {}

#[cfg(feature = "emf")]
#[doc = include_str!("../docs/metrics.md")]
mod metrics {}

#[cfg(feature = "health")]
#[doc = include_str!("../docs/health.md")]
mod health {}

#[doc = include_str!("../docs/cli.md")]
mod cli {}

#[doc = include_str!("../docs/forward-and-exec.md")]
mod forward_and_exec {}

#[doc = include_str!("../docs/queues-and-files.md")]
mod queues_and_files {}

#[doc = include_str!("../docs/replaying.md")]
mod replaying {}

#[doc = include_str!("../docs/reliability.md")]
mod reliability {}
#[doc = include_str!("../docs/hostile-input.md")]
mod hostile_input {}

#[cfg(feature = "otel")]
#[doc = include_str!("../docs/tracing.md")]
mod tracing {}

#[doc = include_str!("../docs/night.md")]
mod night {}
