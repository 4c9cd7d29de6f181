/// A map whose image has room for a running machine's state, behind the disk and apart from it.
package protocol MachineStateMap: ImageMap {
  /// Where the room begins: what a guest offset would be there.
  var machineStateOffset: UInt64 { get }
  /// The room as a disk of its own that begins at `machineStateOffset`; a `WritableMap` where the map is one. It has no
  /// backing image. It is published but never closed: the map that it belongs to is.
  func machineState() throws(ImageError) -> any ImageMap
}
