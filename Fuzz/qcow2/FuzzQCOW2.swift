import PlatterCore
import PlatterQCOW2

/// The input is a whole image. Opened, and if that works, its maps are walked a bounded number of steps, from the front
/// and at its end, the snapshots' too. A check ends, and so does a repair, which leaves an image that can be checked.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzQCOW2(_ data: UnsafePointer<UInt8>, _ size: Int) -> CInt {
  let bytes = unsafe [UInt8](UnsafeBufferPointer(start: data, count: size))
  let store = MemoryStore(bytes, isWritable: false)
  do throws(ImageError) {
    _ = try QCOW2.probe(bytes.prefix(ProbeHead.byteCount).map { $0 }.rawBytes, store)
    let facts = try QCOW2.open(store, OpenContext(isForFactsOnly: true)).facts
    // A LUKS header would only measure how long a key takes.
    var context = OpenContext()
    if facts.specific?["encrypt"]?["uuid"] == nil { context.passphrase = { [1, 2, 3] } }
    let image = try QCOW2.open(store, context)
    walk(image)
    if let source = image as? any BitmapSource { readBitmaps(source) }
    for snapshot in facts.snapshots.prefix(4) { walk(try image.snapshot(named: snapshot.id)) }
  } catch {}
  checkAndRepair(bytes)
  return 0
}

private func checkAndRepair(_ bytes: [UInt8]) {
  // A repair may copy as much as the file has, and 64 MiB: small clusters only, for speed.
  guard bytes.count > 24, bytes[23] <= 12 else { return }
  let store = MemoryStore(bytes)
  var context = OpenContext(isForFactsOnly: true)
  context.isForCheck = true
  do throws(ImageError) {
    _ = try (try QCOW2.open(store, context) as? any CheckableMap)?.check(workers: 1) { _ in true }
    _ = try QCOW2.repair(store, OpenContext(), .all, workers: 1) { _ in true }
    _ = try (try QCOW2.open(store, context) as? any CheckableMap)?.check(workers: 1) { _ in true }
  } catch {}
}

/// Some ranges of some bitmaps.
private func readBitmaps(_ source: any BitmapSource) {
  for bitmap in source.bitmaps.prefix(4) {
    var end: UInt64 = 0
    var count = 0
    do throws(ImageError) {
      try source.dirtyRanges(ofBitmapNamed: bitmap.name) { (range) throws(ImageError) in
        precondition(range.lowerBound >= end && range.upperBound <= source.bitmapDiskByteCount, "out of order")
        end = range.upperBound
        count += 1
        guard count < 1000 else { throw ImageError(.cancelled, "enough") }
      }
    } catch {}
  }
}

private func walk(_ map: any ImageMap) {
  let size = map.byteCount
  guard size > 0 else { return }
  for start in [0, size / 2, size - 1] {
    var position = start
    for step in 0..<64 where position < size {
      var extents: [Extent] = []
      do throws(ImageError) {
        let next = try map.map(position..<size, limit: step % 7 + 1, into: &extents)
        precondition(next > position && next <= size, "no progress")
        precondition(extents.first?.start == position && extents.last?.end == next, "a gap")
        position = next
      } catch {
        break
      }
    }
  }
}
