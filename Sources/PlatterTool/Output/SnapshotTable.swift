package import PlatterCore

/// The list of internal snapshots, in qemu-img's columns.
package enum SnapshotTable {
  package static func write(_ snapshots: [SnapshotFacts], to output: Output) {
    output.write(line: "Snapshot list:")
    output.write(line: row("ID", "TAG", "VM SIZE", "DATE", "VM CLOCK", "ICOUNT"))
    for snapshot in snapshots {
      output.write(
        line: row(
          HumanText.printable(snapshot.id), HumanText.printable(snapshot.name),
          HumanText.size(snapshot.vmStateByteCount), HumanText.localTime(snapshot.seconds),
          HumanText.clock(nanoseconds: snapshot.guestClockNanoseconds),
          snapshot.instructionCount.map { String($0) } ?? ""))
    }
  }

  private static func row(
    _ id: String, _ tag: String, _ size: String, _ date: String, _ clock: String, _ count: String
  ) -> String {
    [
      HumanText.left(id, 9), HumanText.left(tag, 16), HumanText.right(size, 8), HumanText.right(date, 19),
      HumanText.right(clock, 12), HumanText.right(count, 10),
    ].joined(separator: " ")
  }
}
