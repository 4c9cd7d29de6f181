import PlatterCore
import Synchronization

/// Decoded units of packed extents, for readers that want parts of them. Bounded by bytes.
final class UnitCache: Sendable {
  static let defaultByteLimit = 16 << 20

  struct Key: Hashable, Sendable {
    var depth: UInt16
    var store: UInt16
    var codec: PackedCodec
    var offset: UInt64

    init(_ run: Run) {
      depth = run.depth
      store = run.extent.store
      codec = run.extent.codec
      offset = run.extent.offset
    }

    /// The packed unit of the top image at `offset`.
    init(store: UInt16, codec: PackedCodec, offset: UInt64) {
      depth = 0
      self.store = store
      self.codec = codec
      self.offset = offset
    }
  }

  /// The bytes of one unit; immutable once made.
  final class Unit: Sendable {
    let bytes: [UInt8]
    init(_ bytes: [UInt8]) { self.bytes = bytes }
  }

  private struct State {
    var units: [Key: (unit: Unit, lastUse: UInt64)] = [:]
    var byteCount = 0
    var clock: UInt64 = 0
  }

  private let byteLimit: Int
  private let state = Mutex(State())

  init(byteLimit: Int) { self.byteLimit = byteLimit }

  func unit(_ key: Key) -> Unit? {
    state.withLock { state in
      state.clock += 1
      guard let found = state.units[key] else { return nil }
      state.units[key] = (found.unit, state.clock)
      return found.unit
    }
  }

  func insert(_ unit: Unit, _ key: Key) {
    state.withLock { state in
      state.clock += 1
      guard unit.bytes.count <= byteLimit, state.units[key] == nil else { return }
      while state.byteCount + unit.bytes.count > byteLimit, let oldest = Self.oldest(state) {
        state.byteCount -= state.units.removeValue(forKey: oldest)?.unit.bytes.count ?? 0
      }
      state.units[key] = (unit, state.clock)
      state.byteCount += unit.bytes.count
    }
  }

  func remove(_ key: Key) {
    state.withLock { state in state.byteCount -= state.units.removeValue(forKey: key)?.unit.bytes.count ?? 0 }
  }

  func removeAll() {
    state.withLock { state in
      state.units.removeAll()
      state.byteCount = 0
    }
  }

  private static func oldest(_ state: State) -> Key? {
    var oldest: (key: Key, use: UInt64)?
    for (key, value) in state.units where value.lastUse < oldest?.use ?? .max { oldest = (key, value.lastUse) }
    return oldest?.key
  }
}
