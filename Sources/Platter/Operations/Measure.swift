package import PlatterCore
import PlatterQCOW2

/// Tells how large an image file would be before it is made.
package struct Measure: Sendable {
  /// The disk to be converted; nil for an empty one.
  package var source: DiskImage?
  package var format: any CreatableFormat.Type
  /// Size and options of the image; the size counts where there is no source.
  package var request: CreationRequest

  package init(source: DiskImage?, format: any CreatableFormat.Type, request: CreationRequest) {
    self.source = source
    self.format = format
    self.request = request
    if let source { self.request.byteCount = source.byteCount }
  }

  /// - Throws: `.invalidArgument` for options; what mapping the source throws.
  package func run() throws(ImageError) -> ImageMeasurement {
    let unit = try format.measuringUnit(request)
    var measurement = try format.measure(request, dataByteCount: try dataByteCount(unit))
    if format.name == QCOW2.name, let bitmaps = source?.layers[0].map as? any BitmapSource {
      measurement.bitmaps = try QCOW2.measureBitmaps(request, of: bitmaps)
    }
    return measurement
  }

  /// Bytes of the units in which the source has data by its map: nothing is read.
  private func dataByteCount(_ unit: UInt64) throws(ImageError) -> UInt64 {
    guard let source, unit > 1 else { return 0 }
    // Over another image zeros may need a place too: nobody has looked what that one has there.
    guard (request.options["backing_file"] ?? "").isEmpty else {
      return source.byteCount.dividedRoundingUp(by: unit) * unit
    }
    var cursor = RunCursor(source, 0..<source.byteCount)
    var sum: UInt64 = 0
    var counted: UInt64 = 0
    while let run = try cursor.peek() {
      if !run.readsZero {
        let start = max(run.extent.start / unit * unit, counted)
        let end = run.extent.end.dividedRoundingUp(by: unit) * unit
        if end > start {
          sum += end - start
          counted = end
        }
      }
      cursor.advance(run.extent.byteCount)
    }
    return sum
  }
}
