import PlatterCore
import SystemPackage

/// What QEMU's "blkdebug" node does to requests when it lies above a disk: scripts put it there to see what becomes of
/// failures and of awkward limits.
///
/// A rule becomes active when its event happens, those of the event "none" at once, and stays so until another event makes
/// rules active. A request that meets an active rule fails before anything is done. [observed: qemu-io 7.2]
final class RequestFilter {
  enum Kind: String, CaseIterable {
    case read, write, discard, flush
    case zero = "write-zeroes"
  }

  struct Fault {
    var event: String
    /// The state in which it counts; 0 for any.
    var state: Int64 = 0
    /// Nil for all.
    var kind: Kind?
    /// The sector that a request must contain; nil for any request.
    var sector: UInt64?
    var errno = Errno.ioError
    var isOnce = false
  }

  struct Transition {
    var event: String
    var state: Int64 = 0
    var newState: Int64
  }

  /// The event of a copy-on-read that stores what it has read.
  static let copyOnRead = "cor_write"
  static let noEvent = "none"
  private static let sectorByteCount: UInt64 = 512

  /// Zeros in pieces that are shorter than this, or not aligned to it, are written as data.
  let zeroStep: UInt64
  private var faults: [Fault]
  private let transitions: [Transition]
  private var state: Int64 = 1
  /// Indices of the faults that are active.
  private var active: [Int]

  init(zeroStep: UInt64, faults: [Fault], transitions: [Transition]) {
    self.zeroStep = max(zeroStep, 1)
    self.faults = faults
    self.transitions = transitions
    active = faults.indices.filter { faults[$0].event == Self.noEvent }
  }

  /// Something happened that rules may wait for.
  func happened(_ event: String) {
    let now = state
    for transition in transitions
    where transition.event == event && (transition.state == 0 || transition.state == now) {
      state = transition.newState
    }
    let woken = faults.indices.filter {
      faults[$0].event == event && (faults[$0].state == 0 || faults[$0].state == now)
    }
    if !woken.isEmpty { active = woken }
  }

  /// - Throws: the fault that a request meets.
  func check(_ kind: Kind, _ offset: UInt64 = 0, _ count: UInt64 = 0) throws(ImageError) {
    guard let index = active.first(where: { meets(faults[$0], kind, offset, count) }) else { return }
    let fault = faults[index]
    if fault.isOnce {
      active.removeAll { $0 == index }
      faults[index].event = ""
    }
    throw ImageError.io("a rule of the 'blkdebug' node forbids this \(kind.rawValue)", fault.errno, file: nil)
  }

  private func meets(_ fault: Fault, _ kind: Kind, _ offset: UInt64, _ count: UInt64) -> Bool {
    guard fault.kind == nil || fault.kind == kind else { return false }
    guard let sector = fault.sector else { return true }
    let place = sector * Self.sectorByteCount
    return place >= offset && place - offset < count
  }
}
