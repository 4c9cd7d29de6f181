package import PlatterCore
import Synchronization

extension QCOW2Writer: BitmapMap {
  package var bitmaps: [BitmapFacts] {
    core.withLock { core in
      guard core.liveBitmaps.isEmpty, !core.haveBitmapsChanged else { return core.liveBitmaps.map(\.summary) }
      return core.bitmaps.map(\.summary)
    }
  }

  package var canHaveBitmaps: Bool { reader.canHaveBitmaps }
  package var bitmapDiskByteCount: UInt64 { byteCount }

  package func addBitmap(named name: String, granularity: UInt64?, isEnabled: Bool) throws(ImageError) {
    try locked { core throws(ImageError) in
      try core.addBitmap(named: name, granularity: granularity, isEnabled: isEnabled)
    }
  }

  package func removeBitmap(named name: String) throws(ImageError) {
    try locked { core throws(ImageError) in try core.removeBitmap(named: name) }
  }

  package func clearBitmap(named name: String) throws(ImageError) {
    try locked { core throws(ImageError) in try core.clearBitmap(named: name) }
  }

  package func setBitmap(named name: String, isEnabled: Bool) throws(ImageError) {
    try locked { core throws(ImageError) in try core.setBitmap(named: name, isEnabled: isEnabled) }
  }

  package func mergeBitmap(named source: String, into target: String) throws(ImageError) {
    try locked { core throws(ImageError) in try core.mergeBitmap(named: source, into: target) }
  }

  package func markDirty(_ ranges: [Range<UInt64>], inBitmapNamed name: String) throws(ImageError) {
    try locked { core throws(ImageError) in try core.markDirty(ranges, inBitmapNamed: name) }
  }

  package func dirtyRanges(ofBitmapNamed name: String, _ body: (Range<UInt64>) throws(ImageError) -> Void)
    throws(ImageError)
  {
    guard core.withLock({ !$0.liveBitmaps.isEmpty || $0.haveBitmapsChanged }) else {
      return try reader.dirtyRanges(ofBitmapNamed: name, body)
    }
    var entry = 0
    while true {
      let ranges = try reading { core throws(ImageError) -> [Range<UInt64>]? in
        let index = try core.bitmapIndex(name)
        guard entry < core.liveBitmaps[index].table.count else { return nil }
        return try core.liveBitmaps[index].dirtyRanges(ofEntry: entry, core.bitmapPlace)
      }
      guard let ranges else { return }
      for range in ranges { try body(range) }
      entry += 1
    }
  }
}
