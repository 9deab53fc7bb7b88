//! Counters of the service. Labels are routes and status codes, never tags.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    route: &'static str,
    code: u16,
}

/// What the service has answered.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    requests: Family<Labels, Counter>,
    connections: Gauge,
}

impl Metrics {
    /// Makes all metrics known to a registry.
    pub fn register(&self, registry: &mut Registry) {
        let requests = self.requests.clone();
        registry.register("http_requests", "Answers, by route and status code", requests);
        registry.register("http_connections", "Open connections", self.connections.clone());
    }

    pub(crate) fn answered(&self, route: &'static str, code: u16) {
        self.requests.get_or_create(&Labels { route, code }).inc();
    }

    pub(crate) fn connected(&self, by: i64) {
        self.connections.inc_by(by);
    }
}
