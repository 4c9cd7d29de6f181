import PlatterCore
import PlatterCrypto
import PlatterLUKS
import TestSupport
import Testing

/// Changes key slots of a volume, opened under a passphrase.
private func amend(
  _ store: any ByteStore, _ options: [String: String], under passphrase: String = "open sesame", isForced: Bool = false
) throws {
  var context = context(passphrase)
  context.isWritable = true
  let map = try #require(try LUKS.open(store, context) as? any AmendableMap)
  let barrier: Barrier = { () throws(ImageError) in try store.flush() }
  try map.amend(AmendRequest(options, isForced: isForced, secret: secrets), barrier)
  try map.close(barrier)
}

/// The slots in use.
private func slots(_ store: any ByteStore) throws -> [Int] {
  let head = try store.readPrefix(count: LUKSHeader.byteCount)
  let header = try LUKSHeader(parsing: head.rawBytes, areaByteCount: store.byteCount(), hasPayload: true)
  return header.slots.indices.filter { header.slots[$0].isActive }
}

private func opens(_ store: any ByteStore, _ passphrase: String) -> Bool {
  (try? LUKS.open(store, context(passphrase))) != nil
}

private let add = ["state": "active", "new-secret": "t", "iter-time": "0"]

@Suite("Key slots of LUKS volumes")
struct AmendTests {
  @Test("a passphrase more, in the first free slot or the one named", arguments: [nil, 1, 6, 7] as [Int?])
  func adding(slot: Int?) throws {
    let store = try volume()
    try amend(store, slot.map { add.merging(["keyslot": "\($0)"]) { $1 } } ?? add)
    #expect(try slots(store) == [0, slot ?? 1])
    #expect(opens(store, "open sesame") && opens(store, "another"))
  }

  @Test("a passphrase less, by its slot, by itself, and by both; its key material is gone")
  func erasing() throws {
    for options in [
      ["keyslot": "0"], ["old-secret": "s"], ["keyslot": "0", "old-secret": "s"],
    ] {
      let store = try volume()
      try amend(store, add)
      let material = store.bytes[4096..<4096 + 256_000]
      try amend(store, options.merging(["state": "inactive"]) { $1 }, under: "another")
      #expect(try slots(store) == [1])
      #expect(!opens(store, "open sesame") && opens(store, "another"))
      #expect(zip(store.bytes[4096..<4096 + 256_000], material).count { $0 == $1 } < 2000)
    }
  }

  @Test("a passphrase in several slots goes from all of them") func several() throws {
    let store = try volume()
    for _ in 0..<3 { try amend(store, add) }
    try amend(store, ["state": "inactive", "old-secret": "t"])
    #expect(try slots(store) == [0])
  }

  struct Refusal: Sendable, CustomTestStringConvertible {
    var options: [String: String]
    var message: String
    var testDescription: String { message }
    init(_ options: [String: String], _ message: String) { (self.options, self.message) = (options, message) }
  }

  /// Slots 0 (open sesame) and 1 (another) are in use. The words are qemu-img's.
  static let refusals = [
    Refusal([:], "Parameter 'state' is missing"),
    Refusal(["state": "gone"], "Parameter 'state' does not accept value 'gone'"),
    Refusal(["state": "active"], "'new-secret' is required to activate a keyslot"),
    Refusal(["state": "active", "new-secret": "x"], "No secret with id 'x'"),
    Refusal(
      ["state": "active", "new-secret": "t", "old-secret": "s"],
      "'old-secret' must not be given when activating keyslots"),
    Refusal(
      ["state": "active", "new-secret": "t", "iter-time": "0", "keyslot": "1"],
      "Refusing to overwrite active keyslot 1 - please erase it first"),
    Refusal(
      ["state": "active", "new-secret": "t", "iter-time": "0", "keyslot": "8"],
      "Invalid keyslot 8 specified, must be between 0 and 7"),
    Refusal(["state": "active", "new-secret": "t", "keyslot": "one"], "Parameter 'keyslot' expects a number"),
    Refusal(["state": "active", "new-secret": "t", "iter-time": "-1"], "Parameter 'iter-time' expects a number"),
    Refusal(
      ["state": "inactive"],
      "To erase keyslot(s), either explicit keyslot index or the password currently contained in them must be given"),
    Refusal(
      ["state": "inactive", "keyslot": "0", "new-secret": "t"], "'new-secret' must not be given when erasing keyslots"),
    Refusal(
      ["state": "inactive", "keyslot": "0", "iter-time": "1"], "'iter-time' must not be given when erasing keyslots"),
    Refusal(
      ["state": "inactive", "keyslot": "18446744073709551615"],
      "Invalid keyslot 9223372036854775807 specified, must be between 0 and 7"),
    Refusal(["state": "inactive", "keyslot": "5"], "Given keyslot 5 is already erased (inactive)"),
    Refusal(
      ["state": "inactive", "keyslot": "0", "old-secret": "t"],
      "Given keyslot 0 doesn't contain the given old password for erase operation"),
    Refusal(["state": "inactive", "old-secret": "w"], "No keyslots match given (old) password for erase operation"),
  ]

  @Test("what makes no sense is refused in qemu-img's words, and changes nothing", arguments: refusals)
  func refused(refusal: Refusal) throws {
    let made = try volume()
    try amend(made, add)
    let store = RecordingStore(made.bytes, name: "disk.luks")
    let map = try #require(try LUKS.open(store, context("open sesame")) as? any AmendableMap)
    let secrets: @Sendable (String) throws(ImageError) -> [UInt8]? = { id in
      ["s": Array("open sesame".utf8), "t": Array("another".utf8), "w": Array("wrong one".utf8)][id]
    }
    let error = #expect(throws: ImageError.self) {
      try map.amend(AmendRequest(refusal.options, secret: secrets), noBarrier)
    }
    #expect(error?.description == "disk.luks: \(refusal.message)")
    #expect(store.operations.isEmpty)
    for secret in ["open sesame", "another", "wrong one"] {
      #expect(error?.description.contains(secret) == false)
    }
  }

  @Test("the last passphrase goes only by force, and the disk with it") func last() throws {
    let store = try volume()
    for options in [["keyslot": "0"], ["old-secret": "s"]] {
      let erase = options.merging(["state": "inactive"]) { $1 }
      let error = #expect(throws: ImageError.self) { try amend(store, erase) }
      #expect(error?.message.hasSuffix("irreversibly - refusing operation") == true)
    }
    try amend(store, ["state": "inactive", "keyslot": "0"], isForced: true)
    #expect(try slots(store) == [])
    let error = #expect(throws: ImageError.self) { try LUKS.open(store, context("open sesame")) }
    #expect(error?.message == "Invalid password, cannot unlock any keyslot")
  }

  @Test("eight passphrases are all there can be; by force one takes another's place") func full() throws {
    let store = try volume()
    for _ in 1..<8 { try amend(store, add) }
    let error = #expect(throws: ImageError.self) { try amend(store, add) }
    #expect(error?.message == "Can't add a keyslot - all keyslots are in use")
    try amend(store, add.merging(["keyslot": "0"]) { $1 }, isForced: true)
    #expect(try slots(store) == Array(0..<8))
    #expect(!opens(store, "open sesame") && opens(store, "another"))
  }

  @Test("by force a free slot is erased again") func erasedAgain() throws {
    let store = try volume()
    try amend(store, ["state": "inactive", "keyslot": "3"], isForced: true)
    #expect(try slots(store) == [0])
    #expect(opens(store, "open sesame"))
  }
}

/// Every change of key slots, cut at every moment, with any of the sectors since the last barrier on disk or not.
@Suite("Key slots when the power goes")
struct KeySlotPowerCutTests {
  struct Change: Sendable, CustomTestStringConvertible {
    var name: String
    /// Slots that are added under "another" before.
    var others: [Int] = []
    var options: [String: String]
    var isForced = false
    /// Passphrases of which each must work throughout.
    var kept: [String] = []
    /// Passphrases of which one must work at any time.
    var either: [String] = []
    var testDescription: String { name }
  }

  static let changes = [
    Change(name: "one more", options: add, kept: ["open sesame"]),
    Change(
      name: "one more where the header may tear", options: add.merging(["keyslot": "6"]) { $1 }, kept: ["open sesame"]),
    Change(name: "one less", others: [1], options: ["state": "inactive", "keyslot": "0"], kept: ["another"]),
    Change(
      name: "one less where the header may tear", others: [6], options: ["state": "inactive", "old-secret": "t"],
      kept: ["open sesame"]),
    Change(
      name: "the only one overwritten", options: add.merging(["keyslot": "0"]) { $1 }, isForced: true,
      either: ["open sesame", "another"]),
    Change(
      name: "one overwritten by way of the slot that may tear", others: [1, 2, 3, 4, 5, 7],
      options: add.merging(["keyslot": "0"]) { $1 }, isForced: true, kept: ["another"],
      either: ["open sesame", "another"]),
  ]

  @Test("no passphrase that stays is ever lost", arguments: changes) func cut(change: Change) throws {
    let made = try volume(byteCount: 0)
    for slot in change.others { try amend(made, add.merging(["keyslot": "\(slot)"]) { $1 }) }
    let initial = PagedBytes(made.bytes)
    let journal = ChangeJournal()
    let store = PagedStore(initial, name: "disk.luks", journal: journal)
    try amend(store, change.options, isForced: change.isForced)
    var random = SeededGenerator(seed: 0xc07)
    try PowerCut([initial], journal).forEachCut(&random, variants: 2) { _, left in
      let rest = PagedStore(left[0], name: "left")
      for passphrase in change.kept { #expect(opens(rest, passphrase)) }
      if !change.either.isEmpty { #expect(change.either.contains { opens(rest, $0) }) }
    }
    if change.options["state"] == "active" { #expect(opens(store, "another")) }
  }
}
