//! Metrics of the service. Labels are routes and status codes, never tags, so their number is
//! bounded.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use sinks::invariants::{Invariant, checked};

/// How often this process has checked each invariant that it can check.
#[derive(Debug)]
struct Invariants;

impl Collector for Invariants {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Checks of what must always hold, by the id of docs/simulations.md";
        let kind = MetricType::Counter;
        let mut family = encoder.encode_descriptor("invariant_checks", help, None, kind)?;
        Invariant::IN_PRODUCTION.into_iter().try_for_each(|invariant| {
            let labels = [("id", invariant.id())];
            ConstCounter::new(checked(invariant)).encode(family.encode_family(&labels)?)
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    route: &'static str,
    code: u16,
}

/// Counts requests and connections.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    requests: Family<Labels, Counter>,
    connections: Gauge,
    evicted: Counter,
}

impl Metrics {
    /// Registers all metrics.
    pub fn register(&self, registry: &mut Registry) {
        let requests = self.requests.clone();
        registry.register("http_requests", "Answers, by route and status code", requests);
        registry.register("http_connections", "Open connections", self.connections.clone());
        let help = "Slow or idle connections closed to make room for others";
        registry.register("http_evicted", help, self.evicted.clone());
        registry.register_collector(Box::new(Invariants));
    }

    pub(crate) fn answered(&self, route: &'static str, code: u16) {
        self.requests.get_or_create(&Labels { route, code }).inc();
    }

    pub(crate) fn evicted(&self) {
        self.evicted.inc();
    }

    pub(crate) fn connected(&self, by: i64) {
        self.connections.inc_by(by);
    }
}
