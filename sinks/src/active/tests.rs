//! Tests of the active keyspace, with a database of which every answer can fail.

use tokio::runtime::Builder;

use super::*;

/// A database of which every answer can fail.
struct Fake {
    pointer: Mutex<Result<Option<Pointer>, String>>,
    jobs: Mutex<BTreeMap<String, JobRow>>,
    /// Keyspaces that cannot be connected to, and those whose rows cannot be read.
    lost: Mutex<[Vec<&'static str>; 2]>,
    connected: Mutex<Vec<String>>,
}

impl Default for Fake {
    fn default() -> Self {
        let pointer = Mutex::new(Ok(None));
        let (jobs, lost, connected) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { pointer, jobs, lost, connected }
    }
}

impl Keyspaces for Fake {
    type Connection = String;
    type Error = String;

    fn given(&self) -> &'static str {
        "given"
    }

    async fn connect(&self, keyspace: &str) -> Result<String, String> {
        if self.lost.lock()[0].contains(&keyspace) {
            return Err(format!("no way to {keyspace}"));
        }
        self.connected.lock().push(keyspace.to_owned());
        Ok(keyspace.to_owned())
    }

    async fn pointer(&self, _: &String) -> Result<Option<Pointer>, String> {
        self.pointer.lock().clone()
    }

    async fn job(&self, at: &String, name: Option<&str>) -> Result<Option<JobRow>, String> {
        if self.lost.lock()[1].iter().any(|lost| lost == at) {
            return Err(format!("no row of {at}"));
        }
        let row = self.jobs.lock().get(at).cloned();
        Ok(row.filter(|row| name.is_none_or(|name| name == row.name)))
    }

    fn temporary(what: String) -> String {
        what
    }
}

impl Fake {
    fn publish(&self, keyspace: &str, name: &str, version: i64) {
        let row = JobRow { name: name.to_owned(), version, ..JobRow::default() };
        self.jobs.lock().insert(keyspace.to_owned(), row);
    }

    fn promote(&self, keyspace: &str, written_us: i64) {
        let pointer = Pointer { keyspace: keyspace.to_owned(), written_us };
        *self.pointer.lock() = Ok(Some(pointer));
    }

    /// A step: whether a row was read, what went wrong, and what is active then.
    fn step(&self, active: &ActiveKeyspace<String>, reconnect: bool) -> (bool, String, String) {
        let runtime = Builder::new_current_thread().build().unwrap();
        let (read, done) = runtime.block_on(active.step(self, reconnect));
        let now = active.current().map(|(keyspace, row)| {
            assert_eq!(keyspace.name, keyspace.connection);
            let row = row.map(|row| format!("{}@{}", row.name, row.version));
            format!("{} {}", keyspace.name, row.unwrap_or_default())
        });
        (read, done.err().unwrap_or_default(), now.unwrap_or_default())
    }
}

fn expected(read: bool, error: &str, active: &str) -> (bool, String, String) {
    (read, error.to_owned(), active.to_owned())
}

#[test]
fn given_keyspace_is_active_and_shows_its_newest_row() {
    let (fake, active) = (Fake::default(), ActiveKeyspace::default());
    fake.lost.lock()[0].push("given");
    assert_eq!(fake.step(&active, false), expected(false, "no way to given", ""));
    fake.lost.lock()[0].clear();
    // The given keyspace is active even before anything is published to it.
    assert_eq!(fake.step(&active, false), expected(true, "", "given "));
    fake.publish("given", "a", 7);
    assert_eq!(fake.step(&active, false), expected(true, "", "given a@7"));
    fake.publish("given", "a", 6);
    assert_eq!(fake.step(&active, false), expected(true, "", "given a@7"), "an older replica");
    // Another job's row replaces it once it is newer.
    fake.publish("given", "b", 8);
    assert_eq!(fake.step(&active, false), expected(true, "", "given b@8"));
    fake.jobs.lock().clear();
    assert_eq!(fake.step(&active, false), expected(true, "", "given "));
    fake.publish("given", "b", 9);
    fake.lost.lock()[1].push("given");
    assert_eq!(fake.step(&active, false), expected(false, "no row of given", "given "));
    fake.lost.lock()[1].clear();
    assert_eq!(fake.step(&active, false), expected(true, "", "given b@9"));
    assert_eq!(fake.connected.lock().len(), 1);
    assert_eq!(fake.step(&active, true), expected(true, "", "given b@9"));
    assert_eq!(fake.connected.lock().len(), 2, "it reconnects when told to");
}

#[test]
fn promoted_keyspace_becomes_active_once_it_has_something_to_show() {
    let (fake, active) = (Fake::default(), ActiveKeyspace::default());
    fake.publish("given", "a", 7);
    assert_eq!(fake.step(&active, false), expected(true, "", "given a@7"));
    // If the pointer cannot be read, the keyspace stays active.
    *fake.pointer.lock() = Err("no pointer".to_owned());
    fake.publish("given", "a", 8);
    assert_eq!(fake.step(&active, false), expected(true, "no pointer", "given a@8"));
    fake.promote("new", 5);
    fake.lost.lock()[0].push("new");
    fake.publish("given", "a", 9);
    assert_eq!(fake.step(&active, false), expected(true, "no way to new", "given a@9"));
    fake.lost.lock()[0].clear();
    let empty = "keyspace \"new\" was promoted, but has no published commit";
    assert_eq!(fake.step(&active, false), expected(true, empty, "given a@9"));
    fake.lost.lock()[1].push("given");
    assert_eq!(fake.step(&active, false), expected(false, "no row of given", "given a@9"));
    fake.publish("new", "c", 1);
    assert_eq!(fake.step(&active, false), expected(true, "", "new c@1"));
    fake.lost.lock()[1].clear();
    // The later of two promotions wins, whatever a replica answers.
    fake.promote("given", 4);
    assert_eq!(fake.step(&active, false), expected(true, "", "new c@1"));
    fake.promote("given", 6);
    assert_eq!(fake.step(&active, false), expected(true, "", "given a@9"));
}

#[test]
fn reader_started_after_promotion_never_shows_the_given_keyspace() {
    let (fake, active) = (Fake::default(), ActiveKeyspace::default());
    fake.publish("given", "a", 7);
    fake.promote("new", 5);
    let empty = "keyspace \"new\" was promoted, but has no published commit";
    assert_eq!(fake.step(&active, false), expected(false, empty, ""));
    fake.publish("new", "c", 1);
    assert_eq!(fake.step(&active, false), expected(true, "", "new c@1"));
    // It reconnects to the promoted keyspace, not to the given one.
    fake.connected.lock().clear();
    assert_eq!(fake.step(&active, true), expected(true, "", "new c@1"));
    assert_eq!(*fake.connected.lock(), ["new"]);
}
