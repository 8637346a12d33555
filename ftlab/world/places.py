"""More words of the town: layouts, places, notices, requests, manners; (English, Chinese)."""

# ruff: noqa: E501 (a Chinese character counts as two columns; tables stay tables)
from __future__ import annotations

LABELS = (
    (
        ("Q", "A"), ("Question", "Answer"), ("Visitor", "Guide"), ("Teacher", "Pupil"), ("Asked", "Told"),
        ("Child", "Mother"), ("Clerk", "Neighbor"), ("Reader", "Editor"), ("Stranger", "Local"), ("1", "2"),
        ("Sailor", "Keeper"), ("Input", "Output"), ("Quiz", "Solution"), ("Guest", "Host"), ("Me", "You"),
    ),
    (
        ("问", "答"), ("问题", "答案"), ("游客", "向导"), ("老师", "学生"), ("提问", "回答"), ("孩子", "妈妈"),
        ("店员", "邻居"), ("读者", "编者"), ("路人", "镇民"), ("甲", "乙"), ("船员", "管理员"), ("输入", "输出"),
        ("题目", "解答"), ("客人", "主人"), ("我", "你"),
    ),
)  # fmt: skip

MARKS = (
    "#",
    "##",
    "*",
    ">>",
    "~",
    "==",
    "%",
    "@",
    "--",
    "+",
    "...",
    "$",
    "^",
    "|",
    "[x]",
    "(?)",
    "<1>",
    "<2>",
    "&",
)

PREFACES = (
    (
        "Tell me: ",
        "Please: ",
        "I wonder: ",
        "A guess? ",
        "Excuse me. ",
        "One question: ",
        "Hello. ",
        "Do you know? ",
    ),
    ("请问，", "告诉我：", "你好，", "我想知道，", "问一下，", "请说：", "请回答：", "你知道吗？"),
)

PLACES = (
    ("the lighthouse", "灯塔"), ("the north pier", "北码头"), ("the south pier", "南码头"), ("the mill", "磨坊"),
    ("the market", "集市"), ("the library", "图书馆"), ("the school", "学校"), ("the chapel", "教堂"),
    ("the bakery", "面包房"), ("the shipyard", "船厂"), ("the harbor office", "港务处"), ("the ferry", "渡船"),
    ("the boathouse", "船屋"), ("the fish hall", "鱼市"), ("the tower", "高塔"), ("the bridge", "大桥"),
)  # fmt: skip

DAYS = (
    ("Monday", "星期一"), ("Tuesday", "星期二"), ("Wednesday", "星期三"), ("Thursday", "星期四"),
    ("Friday", "星期五"), ("Saturday", "星期六"), ("Sunday", "星期日"),
)  # fmt: skip

COLORS = (
    ("red", "红色"), ("blue", "蓝色"), ("green", "绿色"), ("white", "白色"), ("black", "黑色"),
    ("yellow", "黄色"), ("orange", "橙色"), ("brown", "棕色"),
)  # fmt: skip

ITEMS = (
    ("boats", "小船"), ("nets", "渔网"), ("ropes", "绳子"), ("lamps", "灯"), ("barrels", "木桶"),
    ("loaves", "面包"), ("tickets", "船票"), ("books", "书"), ("sails", "船帆"), ("oars", "船桨"),
    ("candles", "蜡烛"), ("baskets", "篮子"),
)  # fmt: skip

# (statements, questions, kind of value)
NOTICES = (
    (("The gate of {p} opens at {v}.", "{p}在{v}点开门。"), ("When does {p} open?", "{p}几点开门？"), "number"),
    (("{p} closes at {v}.", "{p}在{v}点关门。"), ("When does {p} close?", "{p}几点关门？"), "number"),
    (("Entry to {p} costs {v} coins.", "{p}的门票是{v}枚硬币。"), ("What does {p} cost?", "{p}的门票多少钱？"), "number"),
    (("Today {p} has room for {v} people.", "今天{p}能容纳{v}人。"), ("How many people fit in {p}?", "{p}能容纳多少人？"), "number"),
    (("The flag at {p} is {v}.", "{p}的旗子是{v}。"), ("Which color is the flag at {p}?", "{p}的旗子是什么颜色？"), "color"),
    (("The door of {p} was painted {v}.", "{p}的门漆成了{v}。"), ("What color is the door of {p}?", "{p}的门是什么颜色？"), "color"),
    (("There is a meeting at {p} on {v}.", "{v}在{p}开会。"), ("On which day is the meeting at {p}?", "哪天在{p}开会？"), "day"),
    (("{p} must be swept every {v}.", "每个{v}要打扫{p}。"), ("When must {p} be swept?", "什么时候要打扫{p}？"), "day"),
    (("Today {v} watches over {p}.", "今天{v}看守{p}。"), ("Who watches over {p} today?", "今天谁看守{p}？"), "name"),
    (("The key of {p} is with {v}.", "{p}的钥匙在{v}那里。"), ("Who has the key of {p}?", "谁有{p}的钥匙？"), "name"),
)  # fmt: skip

# (sentences, action, keys of the record)
ACTIONS = (
    (
        (("Please send {count} {item} to {place}.", "{place} needs {count} {item}."),
         ("请把{count}件{item}送到{place}。", "{place}需要{count}件{item}。")),
        "send", ("item", "count", "place"),
    ),
    (
        (("{name} wants {count} {item}.", "Sell {count} {item} to {name}."),
         ("{name}要{count}件{item}。", "卖给{name}{count}件{item}。")),
        "sell", ("name", "item", "count"),
    ),
    (
        (("Meet {name} at {place} on {day}.", "On {day}, {name} waits at {place}."),
         ("{day}在{place}见{name}。", "{day}，{name}在{place}等。")),
        "meet", ("name", "place", "day"),
    ),
    (
        (("Book {place} for {count} people.", "{count} people will come to {place}."),
         ("为{count}人预订{place}。", "有{count}人要来{place}。")),
        "book", ("place", "count"),
    ),
    (
        (("Call {name} on {day}.", "{name} waits for a call on {day}."), ("{day}给{name}打电话。", "{name}等{day}的电话。")),
        "call", ("name", "day"),
    ),
    (
        (("Where is {place}?", "Show me {place}."), ("{place}在哪里？", "带我去{place}。")),
        "show", ("place",),
    ),
    (
        (("Who is {name}?", "Look up {name}."), ("{name}是谁？", "查一下{name}。")),
        "look_up", ("name",),
    ),
)  # fmt: skip

TRANSLATION_LAYOUTS = (
    "{en} = {zh}",
    "{zh} = {en}",
    "{en}: {zh}",
    "In Chinese, {en} is {zh}.",
    "{zh}的英文是{en}。",
    "{en}\n{zh}",
    "{zh}\n{en}",
)

MANNERS = (
    (
        ("Thank you for asking. ", " Have a fine day."), ("Of course. ", " Is there anything else?"),
        ("With pleasure. ", " You are welcome."), ("Good question. ", " I am glad to help."),
        ("Certainly. ", " Come back any time."),
    ),
    (
        ("谢谢您的提问。", "祝您愉快。"), ("当然可以。", "还有什么可以帮您？"), ("很高兴为您解答。", "不客气。"),
        ("问得好。", "很乐意帮忙。"), ("好的。", "欢迎再来。"),
    ),
)  # fmt: skip
