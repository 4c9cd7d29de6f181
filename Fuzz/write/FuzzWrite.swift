import Platter
import PlatterCore
import PlatterQCOW2

/// The input is a qcow2 image, whose last bytes also say what is done to it. Whatever the image says, the writer does it or
/// refuses; and an image that had no fault before has none after.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzWrite(_ data: UnsafePointer<UInt8>, _ size: Int) -> CInt {
  let bytes = unsafe [UInt8](UnsafeBufferPointer(start: data, count: size))
  // Smaller clusters than the usual ones, for speed.
  guard bytes.count > 200, (9...14).contains(bytes[23]) else { return 0 }
  let store = SmallDisk(bytes, room: 16 << 20)
  let wasSound = isSound(store)
  guard let requests = Requests(store, bytes.suffix(Requests.maximumByteCount)) else { return 0 }
  let isClosed = requests.run()
  precondition(!wasSound || !isClosed || isSound(store), "a sound image has faults after it was written")
  return 0
}

/// Whether a check finds nothing but leaks.
private func isSound(_ store: any ByteStore) -> Bool {
  var context = OpenContext(isForFactsOnly: true)
  context.isForCheck = true
  do throws(ImageError) {
    let report = try (try QCOW2.open(store, context) as? any CheckableMap)?.check(workers: 1) { _ in true }
    return report.map { $0.corruptions == 0 && $0.checkErrors == 0 } ?? false
  } catch {
    return false
  }
}

/// What bytes ask for, five bytes a request: what, where (2), how much, and one more.
private struct Requests {
  static let maximumByteCount = 80
  private static let maximumLength: UInt64 = 256 << 10

  private let disk: DiskImage
  private let writer: DiskWriter
  private let orders: [UInt8]

  init?(_ store: any ByteStore, _ orders: ArraySlice<UInt8>) {
    var context = OpenContext(isWritable: true)
    context.passphrase = { [1, 2, 3] }
    do throws(ImageError) {
      // A LUKS header would only measure how long a key takes.
      let facts = try QCOW2.open(store, OpenContext(isForFactsOnly: true)).facts
      guard facts.specific?["encrypt"]?["uuid"] == nil else { return nil }
      disk = DiskImage(layers: [DiskImage.Layer(name: "disk", map: try QCOW2.open(store, context))])
      writer = try DiskWriter(disk)
    } catch {
      return nil
    }
    self.orders = Array(orders)
  }

  /// - Returns: false where the writer has given up.
  func run() -> Bool {
    for start in stride(from: 0, to: orders.count - 4, by: 5) {
      do throws(ImageError) { try run(orders[start..<start + 5].map { UInt64($0) }) } catch {}
    }
    do throws(ImageError) { try writer.close() } catch { return false }
    return true
  }

  private func range(_ order: [UInt64]) -> Range<UInt64> {
    let place = (order[1] << 8 | order[2]) * 512
    let start = order[0] & 16 == 0 ? min(place, disk.byteCount) : disk.byteCount - min(place, disk.byteCount)
    let length = order[0] & 32 == 0 ? order[3] * 512 : order[3] << 10
    return start..<min(start + min(length, Self.maximumLength), disk.byteCount)
  }

  private func run(_ order: [UInt64]) throws(ImageError) {
    let range = range(order)
    let bytes = [UInt8](repeating: UInt8(order[4]), count: Int(range.upperBound - range.lowerBound))
    let name = "\(order[4] % 4)"
    switch order[0] % 16 {
    case 0, 1, 2: try writer.write(bytes.rawBytes, at: range.lowerBound)
    case 3: try writer.zero(range, mayUnmap: order[4] & 1 == 0)
    case 4, 5: try writer.discard(range)
    case 6, 7:
      let cluster = disk.layers[0].map.allocationUnit ?? 512
      let start = range.lowerBound / cluster * cluster
      let unit = [UInt8](repeating: UInt8(order[4]), count: Int(min(cluster, disk.byteCount - start)))
      try writer.writeCompressed(unit.rawBytes, at: start)
    case 8: try writer.flush()
    case 9: try writer.resize(to: disk.byteCount / 256 * order[4] + order[3] * 512)
    case 10, 11, 12:
      try writer.restructure { map, barrier throws(ImageError) in try snapshot(map, order[0] % 16, name, barrier) }
    case 13: try writer.restructure { map, _ throws(ImageError) in try bitmap(map, order[3], name) }
    case 14: try writer.restructure { map, barrier throws(ImageError) in try amend(map, order[3], barrier) }
    default: try writer.preallocate(range, .metadata)
    }
  }

  private func snapshot(_ map: any WritableMap, _ kind: UInt64, _ name: String, _ barrier: Barrier) throws(ImageError) {
    guard let map = map as? any SnapshotMap else { return }
    switch kind {
    case 10: _ = try map.createSnapshot(named: name, seconds: 1, nanoseconds: 0, barrier)
    case 11: try map.applySnapshot(.idOrName(map.snapshots.first?.id ?? name), barrier)
    default: try map.deleteSnapshot(.idOrName(map.snapshots.first?.id ?? name), barrier)
    }
  }

  private func bitmap(_ map: any WritableMap, _ kind: UInt64, _ name: String) throws(ImageError) {
    guard let map = map as? any BitmapMap else { return }
    switch kind % 5 {
    case 0, 1: try map.addBitmap(named: name, granularity: 512 << (kind % 8), isEnabled: kind % 2 == 0)
    case 2: try map.removeBitmap(named: map.bitmaps.first?.name ?? name)
    case 3: try map.clearBitmap(named: map.bitmaps.first?.name ?? name)
    default: try map.mergeBitmap(named: map.bitmaps.first?.name ?? name, into: name)
    }
  }

  private func amend(_ map: any WritableMap, _ kind: UInt64, _ barrier: Barrier) throws(ImageError) {
    let changes = [
      "lazy_refcounts=on", "refcount_bits=1", "refcount_bits=64", "compat=0.10", "compat=1.1", "refcount_bits=16",
    ]
    let change = changes[Int(kind) % changes.count].split(separator: "=").map(String.init)
    try (map as? any AmendableMap)?.amend(AmendRequest([change[0]: change[1]]), barrier)
  }
}
