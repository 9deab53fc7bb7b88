//! The records that are produced: most are valid, some are wrong in the ways of real producers.

use crate::rng::Rng;

const TAGS: [&str; 16] = [
    "rain", "Rain", "RAIN", "sun", "Sun", "Straße", "STRASSE", "日本", "tea", "Tea", "oak", "fog",
    "ice", "dew", "hail", "haze",
];
const REGIONS: [&str; 3] = ["us", "eu", "mars"];
/// Fields that nobody reads.
const ODD: [&str; 3] =
    [r#","by":"\ud83d""#, r#","score":-1e400"#, r#","seen":[{"\udc4d":[1e-999]}]"#];
const MINUTE_MS: i64 = 60_000;
const HOUR_MS: i64 = 3_600_000;

/// How many rare tags there are.
const RARE: u64 = 200;

/// A record, and what its producer knows about it.
#[derive(Clone, Debug)]
pub(crate) struct ProducedRecord {
    /// Its bytes.
    pub(crate) bytes: Vec<u8>,
    /// The time of the post in it; `None` if it is not a valid post.
    pub(crate) ts_ms: Option<i64>,
    /// Whether the post is from a region that has no scope.
    pub(crate) elsewhere: bool,
}

/// An event whose copies claim different times.
struct Varied {
    number: usize,
    partition: usize,
    caption: String,
    region: &'static str,
    /// The latest time that a copy claims.
    latest_ms: i64,
}

impl Varied {
    /// The copy that claims this time.
    fn at(&self, ts_ms: i64) -> ProducedRecord {
        let id = format!("{VARIED}{}", self.number);
        let bytes = event_of(&id, ts_ms, &self.caption, self.region, "").into_bytes();
        ProducedRecord { bytes, ts_ms: Some(ts_ms), elsewhere: self.region == REGIONS[2] }
    }
}

/// Another copy follows within this time: it must be read before the floor passes the latest hour.
const NEAR_MS: i64 = 50 * 60_000;
/// How far back such a copy may claim to be.
const VARIED_MS: u64 = 90 * 60_000;
/// The ids of such events begin with this.
pub(crate) const VARIED: &str = "v";

/// Makes records, and remembers them so that some are repeated.
#[derive(Default)]
pub(crate) struct Producer {
    sent: Vec<ProducedRecord>,
    varied: Vec<Varied>,
}

impl Producer {
    /// The next record of a partition at time `now_ms`, and what is wrong with it, if anything.
    pub(crate) fn record(
        &mut self,
        rng: &mut Rng,
        partition: usize,
        now_ms: i64,
    ) -> (ProducedRecord, Option<&'static str>) {
        let dice = rng.below(100);
        if (30..38).contains(&dice) {
            return self.varied(rng, partition, now_ms);
        }
        if dice < 16 && !self.sent.is_empty() {
            return (rng.pick(&self.sent).clone(), Some("repeated event"));
        }
        let id = self.sent.len();
        let caption = caption(rng);
        let region = rng.pick(&REGIONS);
        let late = |rng: &mut Rng, most_ms: i64| now_ms - rng.below(most_ms as u64) as i64;
        let ts_ms = match dice {
            16..22 => Some(late(rng, 4 * HOUR_MS)),
            22..25 => Some(now_ms + HOUR_MS),
            25..30 => None,
            _ => Some(late(rng, 60_000)),
        };
        let odd = rng.chance(10).then(|| *rng.pick(&ODD));
        let bytes = match (ts_ms, dice) {
            (Some(ts_ms), _) => event(id, ts_ms, &caption, region, odd),
            (None, 25) => format!("{{\"event_id\":\"e{id}\",\"ts\":{now_ms}"),
            (None, 26) => format!("{{\"ts\":{now_ms},\"caption\":\"#lost\"}}"),
            (None, 27) => "[".repeat(200),
            (None, 28) => format!("{{\"event_id\":\"e{id}\",\"type\":\"liked\",\"ts\":{now_ms}}}"),
            (None, _) => "\0\u{fffd}".to_owned(),
        };
        let elsewhere = ts_ms.is_some() && *region == REGIONS[2];
        let record = ProducedRecord { bytes: bytes.into_bytes(), ts_ms, elsewhere };
        self.sent.push(record.clone());
        let wrong = match dice {
            16..22 => Some("late event"),
            22..25 => Some("event ahead"),
            28 => Some("unsupported event"),
            25..30 => Some("broken event"),
            _ => odd.map(|_| "odd field"),
        };
        (record, wrong)
    }

    /// A copy of an event whose copies claim different times, or the first one. Which copy counts
    /// is defined only within a partition, and that it counts once only until the floor passes the
    /// latest hour that was claimed; so all are in one partition, and later ones follow soon.
    fn varied(
        &mut self,
        rng: &mut Rng,
        partition: usize,
        now_ms: i64,
    ) -> (ProducedRecord, Option<&'static str>) {
        let is_near = |event: &&mut Varied| {
            event.partition == partition && now_ms - event.latest_ms < NEAR_MS
        };
        let mut near: Vec<_> = self.varied.iter_mut().filter(is_near).collect();
        let at = rng.below(near.len() as u64 + 1) as usize;
        let (event, wrong) = if at < near.len() {
            let event = near.swap_remove(at);
            let back_ms = if rng.chance(50) { 60_000 } else { VARIED_MS };
            let (before_ms, ts_ms) = (event.latest_ms, now_ms - rng.below(back_ms) as i64);
            event.latest_ms = before_ms.max(ts_ms);
            let is_other = before_ms / HOUR_MS != ts_ms / HOUR_MS;
            (event.at(ts_ms), is_other.then_some("copy in another hour"))
        } else {
            let (number, latest_ms) = (self.varied.len(), now_ms - rng.below(60_000) as i64);
            let (caption, region) = (caption(rng), *rng.pick(&REGIONS));
            let event = Varied { number, partition, caption, region, latest_ms };
            let first = event.at(latest_ms);
            self.varied.push(event);
            (first, None)
        };
        (event, wrong)
    }

    /// The repaired form of a refused record: a new event, or one that was sent as well.
    pub(crate) fn repaired(&mut self, rng: &mut Rng, now_ms: i64) -> ProducedRecord {
        let posts: Vec<&ProducedRecord> =
            self.sent.iter().filter(|record| record.ts_ms.is_some()).collect();
        if rng.chance(40) && !posts.is_empty() {
            return (*rng.pick(&posts)).clone();
        }
        let (id, caption, region) = (self.sent.len(), caption(rng), rng.pick(&REGIONS));
        let old_ms = if rng.chance(25) { 4 * HOUR_MS } else { MINUTE_MS };
        let ts_ms = now_ms - rng.below(old_ms as u64) as i64;
        let bytes = event(id, ts_ms, &caption, region, None).into_bytes();
        let elsewhere = *region == REGIONS[2];
        let record = ProducedRecord { bytes, ts_ms: Some(ts_ms), elsewhere };
        // It may be sent later as well.
        self.sent.push(record.clone());
        record
    }
}

fn caption(rng: &mut Rng) -> String {
    let tags = (0..rng.below(5)).map(|_| {
        // A few tags are in most posts, many in only one or two.
        match rng.below(10) {
            0..5 => format!("#{}", TAGS[rng.below(4) as usize]),
            5..7 => format!("#{}", rng.pick(&TAGS)),
            _ => format!("#rare{}", rng.below(RARE)),
        }
    });
    tags.collect::<Vec<_>>().join(" ")
}

fn event(id: usize, ts_ms: i64, caption: &str, region: &str, odd: Option<&str>) -> String {
    event_of(&format!("e{id}"), ts_ms, caption, region, odd.unwrap_or(""))
}

fn event_of(id: &str, ts_ms: i64, caption: &str, region: &str, odd: &str) -> String {
    format!(
        "{{\"event_id\":\"{id}\",\"ts\":{ts_ms},\"caption\":\"{caption}\",\"region\":\"{region}\"{odd}}}"
    )
}
