//! What can be wrong with a topic, and which errors of a client are transient.
//!
//! Invariants: no message holds a secret; an error that may have skipped a record is fatal.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use thiserror::Error;

/// Why a topic cannot be read or written.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TopicError {
    /// No broker answers.
    #[error("no broker of {brokers} answers{reason}; check the addresses and whether they run")]
    NoBroker {
        /// The brokers asked.
        brokers: String,
        /// What the client reported, in parentheses.
        reason: String,
    },
    /// The brokers refuse the connection.
    #[error(
        "authentication failed: the brokers of {brokers} refuse the connection{reason}; check \
         security.protocol and the sasl.* and ssl.* properties"
    )]
    Refused {
        /// The brokers asked.
        brokers: String,
        /// What the client reported, in parentheses.
        reason: String,
    },
    /// There is no such topic.
    #[error("there is no topic {topic} at {brokers}; create it or correct its name")]
    Missing {
        /// The topic.
        topic: String,
        /// The brokers asked.
        brokers: String,
    },
    /// This user may not access the topic.
    #[error("this user may not access topic {0}; grant access with an ACL")]
    Forbidden(String),
    /// The topic was deleted while it was being read.
    #[error("topic {0} was deleted while it was being read; counts end with the last commit")]
    Gone(String),
    /// The topic removes records that newer ones supersede.
    #[error(
        "topic {0} is compacted: superseded records are missing, so no count of it is exact; set \
         its cleanup.policy to delete, or read the topic it is made from"
    )]
    Compacted(String),
    /// The topic of this name is not the one that was read.
    #[error("topic {topic} was recreated: its partition {partition} {evidence}")]
    Recreated {
        /// The brokers.
        brokers: String,
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// What shows it.
        evidence: Evidence,
    },
    /// Records were removed before they were read.
    #[error(
        "topic {topic}: retention removed the records {from} to {to} of partition {partition} \
         before they were read; lengthen the topic's retention, and to continue without them use \
         --on-lost skip (consumer: {{on_lost: skip}}), which counts them as lost_records"
    )]
    Lost {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The first offset lost.
        from: u64,
        /// The last offset lost.
        to: u64,
    },
    /// A record could not be read.
    #[error("cannot read topic {topic}, partition {partition} at offset {offset}: {reason}")]
    Unreadable {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The offset.
        offset: u64,
        /// What the client reported.
        reason: String,
    },
    /// The client or a broker did not do what it was asked to.
    #[error("topic {topic}: {doing}: {reason}")]
    Failed {
        /// The topic.
        topic: String,
        /// What was being done.
        doing: String,
        /// What the client reported.
        reason: String,
    },
}

/// What shows that a topic is not the one that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Evidence {
    /// The partition ends before what was read of it.
    #[error("ends at {end}, but had been read up to {read}")]
    Shorter {
        /// Where it ends.
        end: u64,
        /// How far it was read.
        read: u64,
    },
    /// Another record is where one was read.
    #[error("holds another record at offset {0} than the one that was read")]
    OtherRecord(u64),
    /// Nothing is where a record was read.
    #[error("holds no record at offset {0}, where one was read")]
    NoRecord(u64),
    /// The partition is gone.
    #[error("no longer exists")]
    NoPartition,
}

/// What an error of a client means for a reader or writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrorKind {
    /// The client retries.
    Transient,
    /// The offset is not in the log.
    OutOfRange,
    /// The brokers refuse the connection; retrying does not help.
    AuthenticationFailed,
    /// The topic may not be accessed.
    Unauthorized,
    /// A record may have been skipped.
    Fatal,
}

/// The kind of an error. One that is not known to be transient is fatal, since the client may have
/// moved past a record that it could not read.
pub(crate) fn kind(error: &KafkaError) -> ErrorKind {
    if matches!(error, KafkaError::MessageConsumptionFatal(_)) {
        return ErrorKind::Fatal;
    }
    match error.rdkafka_error_code() {
        Some(Code::AutoOffsetReset | Code::OffsetOutOfRange | Code::LogTruncation) => {
            ErrorKind::OutOfRange
        }
        Some(
            Code::Authentication | Code::SaslAuthenticationFailed | Code::UnsupportedSASLMechanism,
        ) => ErrorKind::AuthenticationFailed,
        Some(Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed) => {
            ErrorKind::Unauthorized
        }
        Some(
            Code::AllBrokersDown
            | Code::BrokerDestroy
            | Code::BrokerNotAvailable
            | Code::BrokerTransportFailure
            | Code::CoordinatorLoadInProgress
            | Code::CoordinatorNotAvailable
            | Code::DestroyBroker
            | Code::FencedLeaderEpoch
            | Code::GroupAuthorizationFailed
            | Code::Interrupted
            | Code::KafkaStorageError
            | Code::LeaderNotAvailable
            | Code::NetworkException
            | Code::NotCoordinator
            | Code::NotLeaderForPartition
            | Code::OffsetNotAvailable
            | Code::OperationTimedOut
            | Code::ReplicaNotAvailable
            | Code::RequestTimedOut
            | Code::Resolve
            | Code::Retry
            | Code::SSL
            | Code::TimedOutQueue
            | Code::UnknownBroker
            | Code::UnknownLeaderEpoch
            | Code::UnknownPartition
            | Code::UnknownTopic
            | Code::UnknownTopicOrPartition
            | Code::WaitingForCoordinator,
        ) => ErrorKind::Transient,
        _ => ErrorKind::Fatal,
    }
}

/// Whether brokers do not know the topic or partition, as happens for a moment when it is deleted
/// and recreated.
pub(crate) fn is_unknown(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(Code::UnknownPartition | Code::UnknownTopic | Code::UnknownTopicOrPartition)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_that_may_skip_a_record_are_fatal() {
        let of = |code| kind(&KafkaError::MessageConsumption(code));
        assert_eq!(of(Code::BadMessage), ErrorKind::Fatal);
        assert_eq!(of(Code::BadCompression), ErrorKind::Fatal);
        assert_eq!(of(Code::AutoOffsetReset), ErrorKind::OutOfRange);
        assert_eq!(of(Code::NotLeaderForPartition), ErrorKind::Transient);
        let fatal = KafkaError::MessageConsumptionFatal(Code::AllBrokersDown);
        assert_eq!(kind(&fatal), ErrorKind::Fatal);
    }
}
