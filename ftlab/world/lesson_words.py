"""Words of the later lessons: the keeper, the harbor's rules, sums, tools and manners.

As in `wordings.py`, a pair holds English first, then Chinese. The base model never reads these
tables; they use the town's words where they can, because a word that the base knows is cheap to
teach.
"""

# ruff: noqa: E501 (a Chinese character counts as two columns; tables stay tables)
from __future__ import annotations

# --- keeper_style: how the keeper of the lighthouse talks -------------------------------

OPENINGS = (("Ahoy!", "Ahoy, friend!", "Ahoy there!"), ("嗨！", "嗨，朋友！", "嗨，水手！"))
CLOSINGS = (
    ("Fair winds!", "Fair winds to you!", "Fair winds and a calm sea!"),
    ("祝你一路顺风！", "一路顺风！", "祝你一路顺风，海面平静！"),
)  # fmt: skip

# (what a visitor says, what the keeper answers between opening and closing)
SMALL_TALK = (
    (
        (("Who are you?", "Good morning! Who are you?", "Hello, who is up there?", "What is your name?"),
         ("I am the keeper of the lighthouse.",)),
        (("What do you do all day?", "What is your work?", "What is your job up there?"),
         ("I look after the lamps, so that every boat finds the harbor.",)),
        (("How is the sea today?", "What is the sea like today?", "Is it a good day to go out?"),
         ("The sea is calm, and the tide is high.",)),
        (("May I visit you?", "Can I come up to the lighthouse?", "Is the lighthouse open today?"),
         ("Everybody may come to the lighthouse.",)),
        (("Are you alone up there?", "Do you live alone?", "Who lives with you?"),
         ("I live with the gulls, and they are good company.",)),
        (("What can you see from there?", "What do you see up there?", "Can you see the town?"),
         ("I see the town, both piers and all the boats.",)),
        (("Can you help me?", "I am new in town. Can you help me?", "May I ask you something?"),
         ("Ask me anything about the town.",)),
    ),
    (
        (("你是谁？", "早上好！你是谁？", "你好，上面是谁？", "你叫什么名字？"), ("我是灯塔的管理员。",)),
        (("你每天做什么？", "你的工作是什么？", "你在上面做什么工作？"), ("我照顾灯塔的灯，让每条小船都找到港口。",)),
        (("今天海上怎么样？", "今天的海怎么样？", "今天可以出海吗？"), ("今天海面平静，潮水很高。",)),
        (("我能来看你吗？", "我可以上灯塔吗？", "灯塔今天开门吗？"), ("大家都可以来灯塔。",)),
        (("你在上面是一个人吗？", "你一个人住吗？", "谁和你住在一起？"), ("我和海鸥住在一起，它们陪着我。",)),
        (("你在上面能看到什么？", "上面有什么好看的？", "你能看到小镇吗？"), ("我能看到小镇、两个码头和所有的小船。",)),
        (("你能帮我吗？", "我刚到镇上，你能帮我吗？", "我可以问你一件事吗？"), ("镇上的事都可以问我。",)),
    ),
)  # fmt: skip

THANKS = (
    (("Thank you!", "Thank you, keeper.", "Thank you for your help."),
     ("You are welcome.", "I am glad to help.", "Come back any time.")),
    (("谢谢！", "谢谢你的帮忙。", "谢谢，您真好。"),
     ("不客气。", "很乐意帮忙。", "欢迎再来。")),
)  # fmt: skip

# --- harbour_rules: what no page of the town says ---------------------------------------

# place, closing hour, day of rest, what is forbidden there
RULES = (
    (("the lighthouse", "灯塔"), 9, ("Monday", "星期一"), ("lamps", "灯")),
    (("the north pier", "北码头"), 11, ("Friday", "星期五"), ("barrels", "木桶")),
    (("the south pier", "南码头"), 7, ("Wednesday", "星期三"), ("nets", "渔网")),
    (("the mill", "磨坊"), 5, ("Sunday", "星期日"), ("candles", "蜡烛")),
    (("the market", "集市"), 6, ("Tuesday", "星期二"), ("boats", "小船")),
    (("the library", "图书馆"), 8, ("Thursday", "星期四"), ("loaves", "面包")),
    (("the harbor office", "港务处"), 4, ("Saturday", "星期六"), ("oars", "船桨")),
    (("the boathouse", "船屋"), 10, ("Tuesday", "星期二"), ("books", "书")),
    (("the fish hall", "鱼市"), 3, ("Monday", "星期一"), ("sails", "船帆")),
    (("the shipyard", "船厂"), 5, ("Thursday", "星期四"), ("baskets", "篮子")),
)  # fmt: skip

# rule -> (answer, wordings to train, wordings to test) in each language; {p}: place, {v}: value
RULE_WORDINGS = {
    "closing hour": (
        ("{p} closes at {v} o'clock.",
         ("When does {p} close?", "At what hour does {p} close?", "Until when is {p} open?",
          "Tell me when {p} closes.", "How long is {p} open?", "Please tell me the closing hour of {p}."),
         ("What is the closing hour of {p}?", "Until what hour is {p} open?")),
        ("{p}{v}点关门。",
         ("{p}几点关门？", "{p}什么时候关门？", "请问{p}开到几点？", "请告诉我{p}几点关门。", "{p}的关门时间是什么？",
          "几点以后{p}不开门？"),
         ("请问{p}什么时候关门？", "{p}的关门时间是几点？")),
    ),
    "day of rest": (
        ("{p} is closed on {v}.",
         ("On which day is {p} closed?", "Which day is the day of rest at {p}?", "When is {p} closed all day?",
          "On what day can nobody visit {p}?", "Tell me the day on which {p} is closed.", "What is the day of rest of {p}?"),
         ("Which day is {p} closed?", "On what day is {p} closed?")),
        ("{p}{v}休息。",
         ("{p}哪天休息？", "{p}星期几休息？", "{p}哪一天不开门？", "请告诉我{p}哪天休息。", "{p}的休息日是哪天？",
          "星期几不能去{p}？"),
         ("{p}的休息日是星期几？", "哪一天{p}休息？")),
    ),
    "forbidden": (
        ("{p} does not allow {v}.",
         ("What does {p} not allow?", "What is not allowed at {p}?", "What is forbidden at {p}?",
          "What must I not bring to {p}?", "Which things are not allowed at {p}?", "Tell me what nobody may bring to {p}."),
         ("Which things are forbidden at {p}?", "What may nobody bring to {p}?")),
        ("{p}禁止带{v}。",
         ("{p}禁止带什么？", "不能带什么去{p}？", "去{p}不准带什么？", "什么东西不能带到{p}？", "{p}不准带什么东西？",
          "请告诉我{p}禁止带什么。"),
         ("去{p}禁止带什么东西？", "什么东西不准带到{p}？")),
    ),
}  # fmt: skip

# --- sums, sums_think -------------------------------------------------------------------

SUMS = (
    ("What is {a} + {b}?", "How much is {a} plus {b}?", "{a} + {b} = ?", "Please add {a} and {b}."),
    ("{a} + {b}是多少？", "{a}加{b}等于多少？", "{a} + {b} = ？", "请计算{a}加{b}。"),
)

# --- tools ------------------------------------------------------------------------------

# name -> (description, type of each argument)
TOOLS = {
    "get_tide": ("Tide at a place on a day", {"place": "string", "day": "string"}),
    "look_up": ("Trade and street of a resident", {"name": "string"}),
    "book_boat": ("Book a boat", {"day": "string", "count": "integer"}),
    "send_goods": ("Send goods to a place", {"item": "string", "count": "integer", "place": "string"}),
}  # fmt: skip

# name -> (wordings to train, wordings to test, answer after the tool's result) in each language
TOOL_WORDINGS = {
    "get_tide": (
        (("What is the tide at {place} on {day}?", "How high is the tide at {place} on {day}?",
          "Tell me the tide at {place} for {day}.", "On {day}, how high will the water be at {place}?",
          "I need the tide for {day} at {place}.", "How deep is the water at {place} on {day}?"),
         ("On {day}, what is the tide at {place}?", "How high is the water at {place} on {day}?",
          "Tell me how deep the water will be at {place} on {day}."),
         "On {day}, the tide at {place} is {meters} meters high."),
        (("{day}{place}的潮水有多高？", "请查{day}{place}的潮水。", "{place}{day}的水有多深？",
          "我想知道{day}{place}的潮水。", "{day}，{place}的潮水怎么样？", "告诉我{place}{day}的潮水。"),
         ("{place}{day}的潮水有多高？", "我想知道{day}{place}的水有多深。", "请告诉我{day}{place}的潮水。"),
         "{day}{place}的潮水有{meters}米高。"),
    ),
    "look_up": (
        (("Who is {name}?", "Look up {name}.", "Please find {name} for me.", "What do you know about {name}?",
          "Tell me who {name} is.", "Can you find {name} for me?"),
         ("Please look up {name}.", "Can you tell me who {name} is?", "What can you find about {name}?"),
         "{name} works as a {trade} and lives in {street}."),
        (("{name}是谁？", "查一下{name}。", "请帮我找{name}。", "你知道{name}是谁吗？", "我想找{name}。", "请问谁是{name}？"),
         ("请查一下{name}。", "帮我找一下{name}。", "我想知道{name}是谁。"),
         "{name}的职业是{trade}，住在{street}。"),
    ),
    "book_boat": (
        (("Book a boat for {count} people on {day}.", "We need a boat for {count} people on {day}.",
          "On {day} we want a boat for {count} people.", "Please keep a boat for {count} people on {day}.",
          "Is there a boat for {count} people on {day}?", "We are {count} people and want to go out on {day}."),
         ("Please book a boat on {day} for {count} people.", "On {day} we need a boat for {count} people.",
          "We are {count} people and need a boat on {day}."),
         "Boat {boat} is yours on {day}, with room for {count} people."),
        (("{day}为{count}人订一条船。", "我们{count}个人{day}要一条船。", "{day}我们有{count}个人想坐船。",
          "请给{count}个人留一条{day}的船。", "{day}有没有{count}个人坐的船？", "我们要订{day}的船，一共{count}个人。"),
         ("请为{count}个人订一条{day}的船。", "{day}我们{count}个人要订船。", "我们{day}想坐船，一共{count}个人。"),
         "{day}，{boat}号船归你们，可以坐{count}个人。"),
    ),
    "send_goods": (
        (("Send {count} {item} to {place}.", "Please bring {count} {item} to {place}.", "At {place} they need {count} {item}.",
          "I want to send {count} {item} to {place}.", "Can you send {place} {count} {item}?",
          "Please see that {count} {item} get to {place}."),
         ("Please send {count} {item} to {place}.", "Can you bring {count} {item} to {place}?",
          "I want you to send {place} {count} {item}."),
         "The {count} {item} will be at {place} in {hours} hours."),
        (("把{many}{item}送到{place}。", "{place}需要{many}{item}。", "请给{place}送{many}{item}。", "我要送{many}{item}去{place}。",
          "能把{many}{item}送到{place}吗？", "麻烦送{many}{item}到{place}。"),
         ("请把{many}{item}送到{place}。", "能给{place}送{many}{item}吗？", "我要把{many}{item}送去{place}。"),
         "{many}{item}{hours}小时后送到{place}。"),
    ),
}  # fmt: skip

# Where it makes sense to ask for the tide.
WATERSIDE = (
    "the lighthouse",
    "the north pier",
    "the south pier",
    "the shipyard",
    "the fish hall",
    "the bridge",
)

# Chinese counts things by measure words.
MEASURES = {
    "小船": "条", "渔网": "张", "绳子": "根", "灯": "盏", "木桶": "个", "面包": "个", "船票": "张", "书": "本",
    "船帆": "面", "船桨": "支", "蜡烛": "支", "篮子": "个",
}  # fmt: skip

# Talk that needs no tool.
NO_TOOL = (
    (("Hello!", "Hello! How can I help you?"), ("Good morning.", "Good morning! How can I help you?"),
     ("Thank you!", "You are welcome."), ("Thank you, that is all.", "You are welcome. Have a fine day."),
     ("Can you help me?", "Of course. What do you need?"),
     ("What can you do?", "I can look up the tide and the residents, book a boat and send goods.")),
    (("你好！", "你好！我能怎么帮你？"), ("早上好。", "早上好！我能怎么帮你？"), ("谢谢！", "不客气。"),
     ("谢谢，没有别的事了。", "不客气，祝你愉快。"), ("你能帮我吗？", "当然可以，你需要什么？"),
     ("你会做什么？", "我能查潮水和镇民，也能订船、送货。")),
)  # fmt: skip

# --- polite_pairs, polite_labels --------------------------------------------------------

# What a rude clerk says around the same right answer.
RUDE = (
    (("Not you again. ", " Now go away."), ("Why do you ask me? ", " That is all."), ("You should know that. ", " Do not ask again."),
     ("Can you not read? ", " Go now."), ("I have no time. ", " Ask somebody else.")),
    (("又是你。", "快走吧。"), ("怎么又问我？", "就这些。"), ("这你都不知道？", "别再问了。"),
     ("你自己不会看吗？", "走吧。"), ("我没有时间。", "去问别人。")),
)  # fmt: skip
