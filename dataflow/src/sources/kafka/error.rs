//! What can be wrong with a topic, and which of a client's errors pass by themselves.
//!
//! Invariants: no message holds a secret; an error that could have skipped a record ends the job.

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use thiserror::Error;

/// Why a topic cannot be read or written.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TopicError {
    /// Nobody answers.
    #[error(
        "no broker of {brokers} answers{reason}; check the addresses, and that the brokers run"
    )]
    NoBroker {
        /// The brokers asked.
        brokers: String,
        /// What the client says, in brackets.
        reason: String,
    },
    /// The brokers answer, and let nobody in.
    #[error(
        "the brokers of {brokers} refuse the connection{reason}; check security.protocol and the \
         sasl. and ssl. properties"
    )]
    Refused {
        /// The brokers asked.
        brokers: String,
        /// What the client says, in brackets.
        reason: String,
    },
    /// There is no such topic.
    #[error("there is no topic {topic} at {brokers}; create it, or correct its name")]
    Missing {
        /// The topic.
        topic: String,
        /// The brokers asked.
        brokers: String,
    },
    /// The topic is there, and not for us.
    #[error("topic {0} may not be accessed by this user; grant it that by an ACL")]
    Forbidden(String),
    /// The topic went away while it was read.
    #[error("topic {0} is gone: it was deleted while it was read; counts end with the last commit")]
    Gone(String),
    /// The topic removes records that another one supersedes.
    #[error(
        "topic {0} is compacted: records that were superseded are missing, so no count of it is \
         exact; set its cleanup.policy to delete, or read the topic that it is made from"
    )]
    Compacted(String),
    /// The topic of this name is not the one that was read.
    #[error(
        "topic {topic} was recreated: its partition {partition} {what}; use another state folder \
         for the new topic"
    )]
    Recreated {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// What gives it away.
        what: String,
    },
    /// Records were removed before they were read.
    #[error(
        "topic {topic} has lost the records from {from} to {to} of partition {partition}: its \
         retention removed them before they were read; let it keep them longer, and to go on with \
         what is left say --on-lost skip, or consumer: {{on_lost: skip}}, which counts them as \
         lost_records"
    )]
    Lost {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The first position lost.
        from: u64,
        /// The last one.
        to: u64,
    },
    /// A record could not be read.
    #[error("partition {partition} of topic {topic} cannot be read at {position}: {reason}")]
    Unreadable {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// The position.
        position: u64,
        /// What the client says.
        reason: String,
    },
    /// A question about the topic was not answered.
    #[error("topic {topic}: {doing}: {reason}")]
    Unanswered {
        /// The topic.
        topic: String,
        /// What was asked.
        doing: String,
        /// What the client says.
        reason: String,
    },
}

/// What an error of a client means for the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The client tries again by itself.
    Passes,
    /// The position is not in the log.
    OutOfRange,
    /// Asking on has no point.
    Refused,
    /// The topic may not be read.
    Forbidden,
    /// A record may have been left out.
    Ends,
}

/// What an error of a client means. What is not known to pass ends the job, since the client may
/// have gone on behind a record that it could not read.
pub(super) fn meaning(error: &KafkaError) -> Meaning {
    if matches!(error, KafkaError::MessageConsumptionFatal(_)) {
        return Meaning::Ends;
    }
    match error.rdkafka_error_code() {
        Some(Code::AutoOffsetReset | Code::OffsetOutOfRange | Code::LogTruncation) => {
            Meaning::OutOfRange
        }
        Some(
            Code::Authentication | Code::SaslAuthenticationFailed | Code::UnsupportedSASLMechanism,
        ) => Meaning::Refused,
        Some(Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed) => {
            Meaning::Forbidden
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
        ) => Meaning::Passes,
        _ => Meaning::Ends,
    }
}

/// Whether brokers say that there is no such topic or partition, as they do for a moment where it
/// was deleted and made again.
pub(super) fn is_unknown(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(Code::UnknownPartition | Code::UnknownTopic | Code::UnknownTopicOrPartition)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_have_left_out_a_record_ends_the_job() {
        let of = |code| meaning(&KafkaError::MessageConsumption(code));
        assert_eq!(of(Code::BadMessage), Meaning::Ends);
        assert_eq!(of(Code::BadCompression), Meaning::Ends);
        assert_eq!(of(Code::AutoOffsetReset), Meaning::OutOfRange);
        assert_eq!(of(Code::NotLeaderForPartition), Meaning::Passes);
        let fatal = KafkaError::MessageConsumptionFatal(Code::AllBrokersDown);
        assert_eq!(meaning(&fatal), Meaning::Ends);
    }
}
