/// How a process is named to a person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub pid: u32,
    /// `/proc/PID/comm`.
    pub comm: String,
    /// `/proc/PID/cmdline`.
    pub command_line: Vec<String>,
}
