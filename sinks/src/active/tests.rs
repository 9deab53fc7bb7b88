//! Tests of what readers are shown, by a database that fails in every way.

use tokio::runtime::Builder;

use super::*;

/// A database of which everything that a reader asks for can fail.
struct Fake {
    pointer: Mutex<Result<Option<Pointer>, String>>,
    jobs: Mutex<BTreeMap<String, JobRow>>,
    /// Keyspaces that cannot be connected to, and whose rows cannot be read.
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
        if self.lost.lock().unwrap()[0].contains(&keyspace) {
            return Err(format!("no way to {keyspace}"));
        }
        self.connected.lock().unwrap().push(keyspace.to_owned());
        Ok(keyspace.to_owned())
    }

    async fn pointer(&self, _: &String) -> Result<Option<Pointer>, String> {
        self.pointer.lock().unwrap().clone()
    }

    async fn job(&self, at: &String, name: Option<&str>) -> Result<Option<JobRow>, String> {
        if self.lost.lock().unwrap()[1].iter().any(|lost| lost == at) {
            return Err(format!("no row of {at}"));
        }
        let row = self.jobs.lock().unwrap().get(at).cloned();
        Ok(row.filter(|row| name.is_none_or(|name| name == row.name)))
    }

    fn trouble(what: String) -> String {
        what
    }
}

impl Fake {
    fn publish(&self, keyspace: &str, name: &str, version: i64) {
        let row = JobRow { name: name.to_owned(), version, ..JobRow::default() };
        self.jobs.lock().unwrap().insert(keyspace.to_owned(), row);
    }

    fn promote(&self, keyspace: &str, written_us: i64) {
        let pointer = Pointer { keyspace: keyspace.to_owned(), written_us };
        *self.pointer.lock().unwrap() = Ok(Some(pointer));
    }

    /// A step: whether a row was read, what went wrong, and what is shown then.
    fn step(&self, shown: &ActiveKeyspace<String>, anew: bool) -> (bool, String, String) {
        let runtime = Builder::new_current_thread().build().unwrap();
        let (read, done) = runtime.block_on(shown.step(self, anew));
        let told = shown.current().map(|(keyspace, row)| {
            assert_eq!(keyspace.name, keyspace.connection);
            let row = row.map(|row| format!("{}@{}", row.name, row.version));
            format!("{} {}", keyspace.name, row.unwrap_or_default())
        });
        (read, done.err().unwrap_or_default(), told.unwrap_or_default())
    }
}

fn said(read: bool, error: &str, shown: &str) -> (bool, String, String) {
    (read, error.to_owned(), shown.to_owned())
}

#[test]
fn the_given_keyspace_is_shown_as_it_is_and_by_its_newest_row() {
    let (fake, shown) = (Fake::default(), ActiveKeyspace::default());
    fake.lost.lock().unwrap()[0].push("given");
    assert_eq!(fake.step(&shown, false), said(false, "no way to given", ""));
    fake.lost.lock().unwrap()[0].clear();
    // Nothing was published yet: there is a keyspace to be shown all the same.
    assert_eq!(fake.step(&shown, false), said(true, "", "given "));
    fake.publish("given", "a", 7);
    assert_eq!(fake.step(&shown, false), said(true, "", "given a@7"));
    fake.publish("given", "a", 6);
    assert_eq!(fake.step(&shown, false), said(true, "", "given a@7"), "an older replica");
    // Another job's row takes the place of a job that is gone, once it is newer.
    fake.publish("given", "b", 8);
    assert_eq!(fake.step(&shown, false), said(true, "", "given b@8"));
    fake.jobs.lock().unwrap().clear();
    assert_eq!(fake.step(&shown, false), said(true, "", "given "));
    fake.publish("given", "b", 9);
    fake.lost.lock().unwrap()[1].push("given");
    assert_eq!(fake.step(&shown, false), said(false, "no row of given", "given "));
    fake.lost.lock().unwrap()[1].clear();
    assert_eq!(fake.step(&shown, false), said(true, "", "given b@9"));
    assert_eq!(fake.connected.lock().unwrap().len(), 1);
    assert_eq!(fake.step(&shown, true), said(true, "", "given b@9"));
    assert_eq!(fake.connected.lock().unwrap().len(), 2, "it was asked to connect anew");
}

#[test]
fn a_promoted_keyspace_is_shown_once_it_has_something_to_show() {
    let (fake, shown) = (Fake::default(), ActiveKeyspace::default());
    fake.publish("given", "a", 7);
    assert_eq!(fake.step(&shown, false), said(true, "", "given a@7"));
    // Where the pointer cannot be read, what is shown goes on.
    *fake.pointer.lock().unwrap() = Err("no pointer".to_owned());
    fake.publish("given", "a", 8);
    assert_eq!(fake.step(&shown, false), said(true, "no pointer", "given a@8"));
    fake.promote("new", 5);
    fake.lost.lock().unwrap()[0].push("new");
    fake.publish("given", "a", 9);
    assert_eq!(fake.step(&shown, false), said(true, "no way to new", "given a@9"));
    fake.lost.lock().unwrap()[0].clear();
    let empty = "keyspace \"new\" was promoted, and shows no commit";
    assert_eq!(fake.step(&shown, false), said(true, empty, "given a@9"));
    fake.lost.lock().unwrap()[1].push("given");
    assert_eq!(fake.step(&shown, false), said(false, "no row of given", "given a@9"));
    fake.publish("new", "c", 1);
    assert_eq!(fake.step(&shown, false), said(true, "", "new c@1"));
    fake.lost.lock().unwrap()[1].clear();
    // Of two promotions the later one counts, whatever a replica says.
    fake.promote("given", 4);
    assert_eq!(fake.step(&shown, false), said(true, "", "new c@1"));
    fake.promote("given", 6);
    assert_eq!(fake.step(&shown, false), said(true, "", "given a@9"));
}

#[test]
fn a_reader_that_begins_behind_a_promotion_shows_nothing_before_it() {
    let (fake, shown) = (Fake::default(), ActiveKeyspace::default());
    fake.publish("given", "a", 7);
    fake.promote("new", 5);
    let empty = "keyspace \"new\" was promoted, and shows no commit";
    assert_eq!(fake.step(&shown, false), said(false, empty, ""));
    fake.publish("new", "c", 1);
    assert_eq!(fake.step(&shown, false), said(true, "", "new c@1"));
    // It connects to what is to be shown, not to what it was given.
    fake.connected.lock().unwrap().clear();
    assert_eq!(fake.step(&shown, true), said(true, "", "new c@1"));
    assert_eq!(*fake.connected.lock().unwrap(), ["new"]);
}
