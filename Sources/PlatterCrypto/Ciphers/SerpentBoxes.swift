/// Substitution by the eight S-boxes of Serpent: bits n of four words are the input of one box.
package enum SerpentBoxes {
  /// One word of each of four blocks.
  package typealias Word = SIMD4<UInt32>
  package typealias Row = (Word, Word, Word, Word)

  @inline(__always)
  static func not(_ word: Word) -> Word { word ^ Word(repeating: .max) }
}

/// The S-boxes of Serpent as rows of logical operations, found by a search from the tables in its paper; the tests compare
/// them with these tables. `a` has the lowest bit of each input.
extension SerpentBoxes {
  @inline(__always)
  package static func forward(_ box: Int, _ a: Word, _ b: Word, _ c: Word, _ d: Word) -> Row {
    switch box {
    case 0: forward0(a, b, c, d)
    case 1: forward1(a, b, c, d)
    case 2: forward2(a, b, c, d)
    case 3: forward3(a, b, c, d)
    case 4: forward4(a, b, c, d)
    case 5: forward5(a, b, c, d)
    case 6: forward6(a, b, c, d)
    default: forward7(a, b, c, d)
    }
  }

  @inline(__always)
  fileprivate static func forward0(_ a: Word, _ b: Word, _ c: Word, _ d: Word) -> Row {
    let t0 = a | d
    let t1 = b ^ c
    let t2 = t1 ^ t0
    let t3 = a ^ c
    let t4 = t2 & not(c)
    let t5 = t2 & not(a)
    let t6 = d ^ t2
    let t7 = c ^ t5
    let t8 = d ^ t5
    let t9 = t8 & not(t4)
    let t10 = not(t3)
    let t11 = t10 ^ t9
    let t12 = t7 ^ t11
    let t13 = t8 & not(t12)
    let t14 = t7 & not(t6)
    let t15 = t14 ^ t13
    let t16 = b & not(t4)
    let t17 = t12 | t16
    let t18 = t17 ^ t8
    return (t18, t11, t15, t2)
  }

  @inline(__always)
  fileprivate static func forward1(_ a: Word, _ b: Word, _ c: Word, _ d: Word) -> Row {
    let t0 = a & not(b)
    let t1 = not(c)
    let t2 = b & not(a)
    let t3 = d ^ t1
    let t4 = t3 ^ t2
    let t5 = d ^ t0
    let t6 = c & not(t5)
    let t7 = b | d
    let t8 = a ^ t6
    let t9 = t4 | t8
    let t10 = t9 ^ t5
    let t11 = t3 | t10
    let t12 = t7 & not(t0)
    let t13 = t12 ^ t11
    let t14 = c & not(a)
    let t15 = t10 & not(t14)
    let t16 = t7 & not(t8)
    let t17 = t16 ^ t15
    return (t10, t17, t4, t13)
  }

  @inline(__always)
  fileprivate static func forward2(_ a: Word, _ b: Word, _ c: Word, _ d: Word) -> Row {
    let t0 = c & not(a)
    let t1 = b ^ d
    let t2 = t1 ^ t0
    let t3 = a ^ d
    let t4 = b & not(c)
    let t5 = d & not(t2)
    let t6 = t3 & not(t5)
    let t7 = t6 ^ t4
    let t8 = t3 & not(b)
    let t9 = t7 & not(a)
    let t10 = c ^ t8
    let t11 = t10 ^ t9
    let t12 = not(t1)
    let t13 = t4 | t9
    let t14 = t11 ^ t12
    let t15 = t14 ^ t13
    return (t2, t11, t7, t15)
  }

  @inline(__always)
  fileprivate static func forward3(_ a: Word, _ b: Word, _ c: Word, _ d: Word) -> Row {
    let t0 = a & c
    let t1 = d & not(a)
    let t2 = b & not(d)
    let t3 = a ^ t2
    let t4 = t1 ^ t2
    let t5 = t4 & not(c)
    let t6 = b ^ t3
    let t7 = t6 ^ t5
    let t8 = d ^ t6
    let t9 = t7 & not(a)
    let t10 = d ^ t0
    let t11 = t3 | t9
    let t12 = t11 ^ t10
    let t13 = b & not(t10)
    let t14 = t8 & not(t13)
    let t15 = t14 ^ c
    let t16 = t15 & not(t7)
    let t17 = t2 ^ t14
    let t18 = t17 ^ t16
    return (t7, t12, t15, t18)
  }

  @inline(__always)
  fileprivate static func forward4(_ a: Word, _ b: Word, _ c: Word, _ d: Word) -> Row {
    let t0 = not(d)
    let t1 = c ^ d
    let t2 = b ^ t1
    let t3 = not(b)
    let t4 = a ^ t0
    let t5 = a ^ t2
    let t6 = t3 & t4
    let t7 = t1 ^ t6
    let t8 = a | d
    let t9 = t8 ^ t7
    let t10 = t3 & t9
    let t11 = t4 ^ t10
    let t12 = t5 | t7
    let t13 = t3 ^ t11
    let t14 = t13 ^ t12
    let t15 = t1 | t11
    let t16 = t15 & not(t5)
    let t17 = t16 ^ t8
    return (t9, t17, t14, t11)
  }

  @inline(__always)
  fileprivate static func forward5(_ a: Word, _ b: Word, _ c: Word, _ d: Word) -> Row {
    let t0 = b ^ d
    let t1 = not(t0)
    let t2 = a & not(d)
    let t3 = a ^ t1
    let t4 = c ^ t2
    let t5 = t3 & not(b)
    let t6 = t5 ^ t4
    let t7 = t6 & not(d)
    let t8 = a ^ b
    let t9 = t8 ^ t7
    let t10 = t3 | t7
    let t11 = t0 & t6
    let t12 = t11 ^ t10
    let t13 = c & not(t11)
    let t14 = t1 | t13
    let t15 = t14 ^ t4
    return (t6, t9, t12, t15)
  }

  @inline(__always)
  fileprivate static func forward6(_ a: Word, _ b: Word, _ c: Word, _ d: Word) -> Row {
    let t0 = a & not(d)
    let t1 = a ^ d
    let t2 = c | t1
    let t3 = b & t1
    let t4 = c ^ t3
    let t5 = a ^ c
    let t6 = b ^ t5
    let t7 = not(t6)
    let t8 = t7 ^ t0
    let t9 = t2 ^ t6
    let t10 = b | t9
    let t11 = t10 ^ t4
    let t12 = t7 & not(t4)
    let t13 = a & b
    let t14 = t12 ^ t13
    let t15 = t14 ^ d
    let t16 = t9 ^ t15
    let t17 = t3 ^ t16
    return (t15, t8, t17, t11)
  }

  @inline(__always)
  fileprivate static func forward7(_ a: Word, _ b: Word, _ c: Word, _ d: Word) -> Row {
    let t0 = not(c)
    let t1 = d | t0
    let t2 = a ^ t1
    let t3 = b ^ c
    let t4 = c & not(b)
    let t5 = d ^ t4
    let t6 = a & not(t5)
    let t7 = t6 ^ t3
    let t8 = t6 & not(t3)
    let t9 = d ^ t2
    let t10 = t7 | t9
    let t11 = t10 ^ t5
    let t12 = t8 ^ t11
    let t13 = t7 ^ t9
    let t14 = t13 ^ t12
    let t15 = b ^ t12
    let t16 = t10 ^ t15
    let t17 = t16 ^ a
    return (t11, t17, t14, t7)
  }
}
