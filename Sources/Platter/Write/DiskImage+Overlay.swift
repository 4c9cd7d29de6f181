package import PlatterCore
import PlatterQCOW2
import SystemPackage

extension DiskImage {
  /// A disk that shows this one and takes all writes into a nameless temporary file.
  package func withTemporaryOverlay() throws(ImageError) -> DiskImage {
    let file = try FileStore.temporary()
    var request = CreationRequest(byteCount: byteCount, path: "overlay")
    // The chain below is handed over as it is; the names only say that there is one.
    request.options = ["backing_file": "disk", "backing_fmt": "raw"]
    request.backingByteCount = byteCount
    try QCOW2.create(in: file, request)
    return try DiskImage.open(made: file, at: "overlay", format: QCOW2.name, backing: self, OpenOptions())
  }

  /// Stores in the image itself what of a range only the images under it have.
  /// - Parameter writer: the writer of this disk.
  package func copyUp(
    _ range: Range<UInt64>, _ writer: DiskWriter,
    willWrite: (_ part: Range<UInt64>, _ isZero: Bool) throws(ImageError) -> Void = { _, _ in }
  ) throws(ImageError) {
    guard !range.isEmpty else { return }
    let unit = layers[0].map.allocationUnit ?? 1
    let start = range.lowerBound / unit * unit
    let end = min(range.upperBound.dividedRoundingUp(by: unit) * unit, byteCount)
    var cursor = RunCursor(DiskImage(layers: [layers[0]]), start..<end)
    while let own = try cursor.peek() {
      let part = own.extent.start..<own.extent.end
      if own.extent.kind == .absent { try copyUpAbsent(part, writer, willWrite) }
      cursor.advance(part.upperBound - part.lowerBound)
    }
  }

  private func copyUpAbsent(
    _ range: Range<UInt64>, _ writer: DiskWriter, _ willWrite: (Range<UInt64>, Bool) throws(ImageError) -> Void
  ) throws(ImageError) {
    var below = RunCursor(self, range)
    while let run = try below.peek() {
      let end = min(run.extent.end, run.extent.start + DiskWriter.maximumStepByteCount)
      try willWrite(run.extent.start..<(run.readsZero ? run.extent.end : end), run.readsZero)
      if run.readsZero {
        try writer.ownZeros(run.extent.start..<run.extent.end)
        below.advance(run.extent.byteCount)
      } else {
        let bytes = try read(Int(end - run.extent.start), at: run.extent.start)
        try writer.write(bytes.rawBytes, at: run.extent.start)
        below.advance(end - run.extent.start)
      }
    }
  }
}
