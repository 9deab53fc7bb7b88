//! The records that simulations produce: most are plain, some are what producers get wrong.

use crate::rng::Rng;

const TAGS: [&str; 16] = [
    "rain", "Rain", "RAIN", "sun", "Sun", "Straße", "STRASSE", "日本", "tea", "Tea", "oak", "fog",
    "ice", "dew", "hail", "haze",
];
const REGIONS: [&str; 3] = ["us", "eu", "mars"];
const HOUR_MS: i64 = 3_600_000;

/// Makes records; remembers them, so that some come again.
#[derive(Default)]
pub struct Producer {
    made: Vec<Vec<u8>>,
}

impl Producer {
    /// The next record, at time `now_ms`, and what is wrong with it, if anything.
    pub fn record(&mut self, rng: &mut Rng, now_ms: i64) -> (Vec<u8>, Option<&'static str>) {
        let dice = rng.below(100);
        if dice < 16 && !self.made.is_empty() {
            return (rng.pick(&self.made).clone(), Some("repeated event"));
        }
        let id = self.made.len();
        let caption = caption(rng);
        let region = rng.pick(&REGIONS);
        let late = |rng: &mut Rng, most_ms: i64| now_ms - rng.below(most_ms as u64) as i64;
        let record = match dice {
            16..22 => event(id, late(rng, 4 * HOUR_MS), &caption, region),
            22..25 => event(id, now_ms + HOUR_MS, &caption, region),
            25 => format!("{{\"event_id\":\"e{id}\",\"ts\":{now_ms}"),
            26 => format!("{{\"ts\":{now_ms},\"caption\":\"#lost\"}}"),
            27 => "[".repeat(200),
            28 => format!("{{\"event_id\":\"e{id}\",\"type\":\"liked\",\"ts\":{now_ms}}}"),
            29 => "\0\u{fffd}".to_owned(),
            _ => event(id, late(rng, 60_000), &caption, region),
        };
        self.made.push(record.clone().into_bytes());
        let wrong = match dice {
            16..22 => Some("late event"),
            22..25 => Some("event ahead"),
            28 => Some("unsupported event"),
            25..30 => Some("broken event"),
            _ => None,
        };
        (record.into_bytes(), wrong)
    }
}

fn caption(rng: &mut Rng) -> String {
    let tags = (0..rng.below(5)).map(|_| {
        // A few tags are in most posts.
        let most = if rng.chance(60) { 4 } else { TAGS.len() as u64 };
        format!("#{}", TAGS[rng.below(most) as usize])
    });
    tags.collect::<Vec<_>>().join(" ")
}

fn event(id: usize, ts_ms: i64, caption: &str, region: &str) -> String {
    format!(
        "{{\"event_id\":\"e{id}\",\"ts\":{ts_ms},\"caption\":\"{caption}\",\"region\":\"{region}\"}}"
    )
}
