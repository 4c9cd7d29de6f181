import PlatterCodecs
import PlatterCore
import PlatterDMG
import Synchronization

/// Opens an image in memory.
func open(_ bytes: [UInt8], _ context: OpenContext = OpenContext()) throws -> any ImageMap {
  try DMG.open(MemoryStore(bytes, name: "test.dmg", isWritable: false), context)
}

/// How surely a file is a disk image.
func probe(_ store: any ByteStore) throws -> Int {
  let head = try store.readPrefix(count: ProbeHead.byteCount)
  return try DMG.probe(head.rawBytes, store)
}

/// All runs, asked for a few at a time.
func runs(_ map: any ImageMap, limit: Int = 3) throws -> [Extent] {
  var extents: [Extent] = []
  var position: UInt64 = 0
  while position < map.byteCount {
    position = try map.map(position..<map.byteCount, limit: limit, into: &extents)
  }
  return extents
}

/// The whole disk by the map alone: each unit decoded whole.
func contents(_ map: any ImageMap) throws -> [UInt8] {
  let decoder = UnitDecoder()
  var disk: [UInt8] = []
  for run in try runs(map) {
    let store = map.stores[Int(run.store)]
    switch run.kind {
    case .zero, .absent: disk += [UInt8](repeating: 0, count: Int(run.byteCount))
    case .data: disk += try store.readFully("the data", at: run.offset, count: Int(run.byteCount))
    case .packed:
      let packed = try store.readFully("the unit", at: run.offset, count: Int(run.packedByteCount))
      var unit = [UInt8](repeating: 0, count: Int(run.unitByteCount))
      let produced = try unit.withMutableRawBytes { buffer throws(ImageError) in
        try decoder.decode(run.codec, packed.rawBytes, into: &buffer)
      }
      guard produced == unit.count else { throw ImageError.corrupt("\(produced) bytes instead of \(unit.count)") }
      let skip = Int(run.start - run.unitStart)
      disk += unit[skip..<skip + Int(run.byteCount)]
    }
  }
  return disk
}

/// Collects warnings.
final class Warnings: Sendable {
  private let list = Mutex<[String]>([])
  var all: [String] { list.withLock { $0 } }
  func context() -> OpenContext { OpenContext(warn: { text in self.list.withLock { $0.append(text) } }) }
}

func check(_ map: any ImageMap, workers: Int = 2) throws -> CheckReport {
  guard let map = map as? any CheckableMap else { throw ImageError.unsupported("not checkable") }
  return try map.check(workers: workers) { _ in true }
}
