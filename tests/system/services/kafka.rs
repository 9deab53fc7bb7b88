//! The job's input from a real Kafka.

use super::topics::{create, records};
use super::{fresh, kafka, shared};

#[test]
fn a_fresh_topic_is_empty() {
    let Some(brokers) = kafka() else { return };
    let _servers = shared();
    let topic = fresh("empty");
    create(&brokers, &topic, 6, &[]);
    assert_eq!(records(&brokers, &topic).count(), 0);
}
