import Synchronization

/// A bounded cache of parsed tables, shared by all readers of an image.
///
/// Holds at most `capacity` values; the least recently used goes first. Loading happens outside the lock: two readers that
/// miss together both load, and the first result stays.
///
package final class TableCache<Key: Hashable & Sendable, Value: Sendable>: Sendable {
  private struct Entry {
    var value: Value
    var lastUse: UInt64
  }

  private struct State {
    var entries: [Key: Entry] = [:]
    var clock: UInt64 = 0
  }

  package let capacity: Int
  private let state = Mutex(State())

  /// - Parameter capacity: most values held; at least 1.
  package init(capacity: Int) {
    precondition(capacity > 0)
    self.capacity = capacity
  }

  /// The cached value, or the one that `load` gives, cached.
  package func value(for key: Key, load: () throws(ImageError) -> Value) throws(ImageError) -> Value {
    if let value = cached(key) { return value }
    let loaded = try load()
    return state.withLock { state in
      state.clock &+= 1
      if let present = state.entries[key] { return present.value }
      if state.entries.count >= capacity { Self.evict(&state, keeping: capacity - max(1, capacity / 8)) }
      state.entries[key] = Entry(value: loaded, lastUse: state.clock)
      return loaded
    }
  }

  /// The cached value, or nil.
  package func cached(_ key: Key) -> Value? {
    state.withLock { state in
      state.clock &+= 1
      let clock = state.clock
      guard let index = state.entries.index(forKey: key) else { return nil }
      state.entries.values[index].lastUse = clock
      return state.entries.values[index].value
    }
  }

  package func remove(_ key: Key) {
    state.withLock { state in _ = state.entries.removeValue(forKey: key) }
  }

  package func removeAll() {
    state.withLock { state in state.entries.removeAll() }
  }

  /// Drops the least recently used until `keeping` are left: an eighth at a time, so that the sort is paid rarely.
  private static func evict(_ state: inout State, keeping count: Int) {
    let uses = state.entries.values.map(\.lastUse).sorted()
    let excess = uses.count - count
    guard excess > 0 else { return }
    let limit = uses[excess - 1]
    state.entries = state.entries.filter { $0.value.lastUse > limit }
  }
}
